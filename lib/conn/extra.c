/* extra.c — see extra.h. */
#include "conn/extra.h"

#include <errno.h>
#include <stdlib.h>

#include "base/sys.h"
#include "conn/tls.h"

int hark__extra_make(struct hark_conn *c, struct hark__extra **out)
{
	if (c->replies)
		return -EOPNOTSUPP;
	if (!c->has_extra) {
		struct hark__extra *x = hark__sys.calloc(1, sizeof *x);
		if (x == NULL)
			return -ENOMEM;
		x->data = c->data;
		c->extra = x;
		c->has_extra = true;
	}
	*out = c->extra;
	return 0;
}

void hark__extra_free(struct hark_conn *c)
{
	struct hark__extra *x = hark__conn_extra(c);
	if (x == NULL)
		return;
	c->has_extra = false;
	c->data = x->data;
	hark__tls_conn_free(x->tls);
	free(x->proxied);
	free(x);
}
