/* check.c — see config_check_system(). */
#include "inside.h"

int config_check_system(struct config *c)
{
	return (int)c->n_errors;
}
