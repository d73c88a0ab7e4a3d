/* number.c — see number.h. Pure functions: any thread. */
#include "number.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DURATION_MAX_S 315360000.0 /* ten years: far below where nanoseconds overflow */

int duration_parse(const char *text, int64_t *ns)
{
	static const struct {
		const char *unit;
		double seconds;
	} units[] = {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}, {"m", 60}, {"h", 3600}, {"d", 86400}};
	size_t digits = strspn(text, "0123456789.");
	char *end;

	/* strtod(3) alone would take signs, hexadecimal, infinity and blanks. */
	if (digits == 0 || strspn(text, ".") == digits)
		return -EINVAL;
	double value = strtod(text, &end);
	if (end != text + digits)
		return -EINVAL;
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		if (strcmp(end, units[i].unit) != 0)
			continue;
		double seconds = value * units[i].seconds;
		if (seconds > DURATION_MAX_S)
			return -ERANGE;
		*ns = (int64_t)(seconds * 1e9 + 0.5);
		return 0;
	}
	return -EINVAL;
}

const char *duration_format(int64_t ns, char buf[32])
{
	static const struct {
		const char *unit;
		int64_t ns;
	} units[] = {{"h", 3600000000000}, {"m", 60000000000}, {"s", 1000000000},
	             {"ms", 1000000},      {"us", 1000},       {"ns", 1}};
	size_t i = 0;

	while (ns % units[i].ns != 0)
		i++;
	(void)snprintf(buf, 32, ns == 0 ? "0" : "%" PRId64 "%s", ns / units[i].ns, units[i].unit);
	return buf;
}

int number_parse(const char *text, const char *suffixes, int64_t *out)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	long long n = strtoll(text, &end, 10);
	if (errno != 0)
		return -ERANGE;
	if (*end != '\0') {
		const char *suffix = strchr(suffixes, *end | 0x20);
		if (suffix == NULL || end[1] != '\0')
			return -EINVAL;
		int shift = 10 * (int)(suffix - suffixes + 1);
		if (n > (INT64_MAX >> shift))
			return -ERANGE;
		n <<= shift;
	}
	*out = n;
	return 0;
}
