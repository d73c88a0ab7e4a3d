/* why.c — see why.h. Any thread; touches nothing but its arguments. */
#include "base/why.h"

#include <stdio.h>
#include <string.h>

void hark__why(struct hark_why *why, const char *format, ...)
{
	if (why == NULL)
		return;
	va_list args;
	va_start(args, format);
	int n = vsnprintf(why->text, sizeof why->text, format, args);
	va_end(args);
	if (n < 0)
		why->text[0] = '\0';
	else if ((size_t)n >= sizeof why->text)
		memcpy(why->text + sizeof why->text - 4, "...", 4);
	for (char *p = why->text; *p != '\0'; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
}
