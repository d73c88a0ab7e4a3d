/* say.c — errors in one line.
 *
 * Any thread, any fiber, any process of hark serve: nothing is shared but standard error. */
#include "tool.h"

#include <stdarg.h>

#include "text.h"

void say(const struct verb *v, const char *format, ...)
{
	char buf[1024];
	struct text t = {.buf = buf, .cap = sizeof buf};
	va_list args;

	text_add(&t, "hark: ");
	if (v != NULL)
		text_add(&t, "%s: ", v->name);
	va_start(args, format);
	text_vadd(&t, format, args);
	va_end(args);
	text_scrub(&t);
	(void)text_write_line(&t, 2);
}
