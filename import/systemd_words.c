/* systemd_words.c — the words, specifiers, times and sizes of systemd.syntax(7), systemd.unit(5) and systemd.time(7).
 * Functions of their arguments; any thread. */
#include "systemd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "hark.h"
#include "text.h"

#define BLANKS " \t\n\r\v\f"
#define US_NS  INT64_C(1000)

/* A code point as UTF-8. False: it is none. */
static bool put_utf8(unsigned long c, char **to)
{
	if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return false;
	int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
	static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
	*(*to)++ = (char)(lead[more] | (c >> (6 * more)));
	while (more-- > 0)
		*(*to)++ = (char)(0x80 | ((c >> (6 * more)) & 0x3f));
	return true;
}

/* \n, \s, \x41, \101, \u20ac …: *at is behind the backslash. Writes what it stands for and moves on. False: it is none,
 * and stays as it is. */
static bool cut_escape(const char **at, char **to)
{
	static const char plain[] = "a\ab\bf\fn\nr\rt\tv\vs \\\\\"\"''";
	static const struct {
		char letter;
		size_t length;
	} hex[] = {{'x', 2}, {'u', 4}, {'U', 8}};
	const char *p = *at;
	char digits[9] = "";

	for (size_t i = 0; *p != '\0' && plain[i] != '\0'; i += 2) {
		if (plain[i] != *p)
			continue;
		*(*to)++ = plain[i + 1];
		*at = p + 1;
		return true;
	}
	size_t length = 3, before = 0;
	for (size_t i = 0; i < sizeof hex / sizeof hex[0]; i++)
		if (hex[i].letter == *p) {
			length = hex[i].length;
			before = 1;
		}
	(void)strncat(digits, p + before, length);
	size_t n = strspn(digits, before > 0 ? "0123456789abcdefABCDEF" : "01234567");
	unsigned long c = n == length ? strtoul(digits, NULL, before > 0 ? 16 : 8) : 0;
	if (length > 3 ? put_utf8(c, to) : c > 0 && c < 256) {
		if (length <= 3)
			*(*to)++ = (char)c;
		*at = p + before + length;
		return true;
	}
	*(*to)++ = '\\';
	return false;
}

char *systemd_cut(struct document *d, const char **at, bool *bad)
{
	const char *p = *at + strspn(*at, BLANKS);
	char quote = '\0';

	if (*p == '\0')
		return NULL;
	char *word = malloc(strlen(p) + 1), *to = word; /* what an escape stands for is never longer */
	if (word == NULL) {
		d->broken = true;
		return NULL;
	}
	while (*p != '\0' && (quote != '\0' || strchr(BLANKS, *p) == NULL)) {
		char c = *p++;
		if (c == '\\') {
			if (!cut_escape(&p, &to) && bad != NULL)
				*bad = true;
		} else if (c == quote) {
			quote = '\0';
		} else if (quote == '\0' && (c == '"' || c == '\'')) {
			quote = c;
		} else {
			*to++ = c;
		}
	}
	if (quote != '\0' && bad != NULL)
		*bad = true;
	*to = '\0';
	*at = p;
	return word;
}

/* What stands for %c in a unit of the system's own systemd, or NULL. */
static const char *specifier(const struct unit *u, char c, char *buf, size_t cap)
{
	static const char *const system[] = {"t/run", "S/var/lib", "C/var/cache", "L/var/log", "E/etc",   "h/root",
	                                     "uroot", "U0",        "groot",       "G0",        "s/bin/sh"};
	static const char *const all[] = {"%%", "T/tmp", "V/var/tmp"};
	const char *at = strchr(u->name, '@'), *dot = strrchr(u->name, '.');
	size_t base = dot != NULL ? (size_t)(dot - u->name) : strlen(u->name);
	const char *end = u->name + base;
	bool plain = at == NULL || at > end, whole = plain || at + 1 < end; /* no template */

	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (all[i][0] == c)
			return all[i] + 1;
	for (size_t i = 0; i < sizeof system / sizeof system[0] && !u->user; i++)
		if (system[i][0] == c)
			return system[i] + 1;
	if (c == 'p')
		(void)snprintf(buf, cap, "%.*s", (int)((plain ? end : at) - u->name), u->name);
	else if (c == 'N' && whole)
		(void)snprintf(buf, cap, "%.*s", (int)base, u->name);
	else if (c == 'n' && whole)
		(void)snprintf(buf, cap, "%s", u->name);
	else if (c == 'i' || (c == 'I' && (plain || strpbrk(at, "-\\") == NULL)))
		(void)snprintf(buf, cap, "%.*s", plain ? 0 : (int)(end - at - 1), plain ? "" : at + 1);
	else
		return NULL;
	if (c == 'i' || c == 'I')
		return whole ? buf : NULL;
	return buf;
}

char *systemd_specify(struct document *d, const struct unit *u, const char *text, char *which)
{
	char *out = NULL, name[256];
	size_t len;
	FILE *to = open_memstream(&out, &len);

	*which = '\0';
	if (to == NULL) {
		d->broken = true;
		return NULL;
	}
	for (; *text != '\0'; text++) {
		if (*text != '%' || text[1] == '\0') {
			fputc(*text, to);
			continue;
		}
		const char *put = specifier(u, *++text, name, sizeof name);
		if (put == NULL) {
			*which = *text;
			break;
		}
		fputs(put, to);
	}
	if (!text_close_stream(to, &out)) {
		d->broken = true;
		*which = '?';
	}
	if (*which != '\0') {
		free(out);
		out = NULL;
	}
	return out;
}

static const struct {
	const char *name;
	int64_t ns;
} units[] = {
	{"us", US_NS},
	{"usec", US_NS},
	{"\xc2\xb5s", US_NS}, /* U+00B5 */
	{"\xce\xbcs", US_NS}, /* U+03BC */
	{"ms", HARK_MS},
	{"msec", HARK_MS},
	{"s", HARK_S},
	{"sec", HARK_S},
	{"second", HARK_S},
	{"seconds", HARK_S},
	{"m", 60 * HARK_S},
	{"min", 60 * HARK_S},
	{"minute", 60 * HARK_S},
	{"minutes", 60 * HARK_S},
	{"h", 3600 * HARK_S},
	{"hr", 3600 * HARK_S},
	{"hour", 3600 * HARK_S},
	{"hours", 3600 * HARK_S},
	{"d", 86400 * HARK_S},
	{"day", 86400 * HARK_S},
	{"days", 86400 * HARK_S},
	{"w", 604800 * HARK_S},
	{"week", 604800 * HARK_S},
	{"weeks", 604800 * HARK_S},
	{"M", 2629800 * HARK_S}, /* 30.44 days */
	{"month", 2629800 * HARK_S},
	{"months", 2629800 * HARK_S},
	{"y", 31557600 * HARK_S}, /* 365.25 days */
	{"year", 31557600 * HARK_S},
	{"years", 31557600 * HARK_S},
};

/* 0: there is no such unit. */
static int64_t unit_of(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
		if (strlen(units[i].name) == n && strncmp(units[i].name, name, n) == 0)
			return units[i].ns;
	return 0;
}

int systemd_time(const char *text, int64_t unit_ns, int64_t *ns)
{
	double sum = 0;

	if (strcmp(text, "infinity") == 0) {
		*ns = INT64_MAX;
		return 0;
	}
	text += strspn(text, BLANKS);
	if (*text == '\0')
		return -EINVAL;
	while (*text != '\0') {
		size_t digits = strspn(text, "0123456789.");
		char *end;
		double n = strtod(text, &end);
		if (digits == 0 || end != text + digits)
			return -EINVAL;
		const char *name = end + strspn(end, BLANKS);
		size_t len = strcspn(name, BLANKS "0123456789.");
		int64_t unit = len > 0 ? unit_of(name, len) : unit_ns;
		if (unit == 0)
			return -EINVAL;
		sum += n * (double)unit;
		text = name + len;
		text += strspn(text, BLANKS);
	}
	if (sum > 3e17) /* ten years */
		return -EINVAL;
	*ns = (int64_t)(sum + 0.5);
	return 0;
}

int systemd_size(const char *text, int64_t *n)
{
	static const char suffixes[] = "KMGTPE";
	char *end;

	if (strcmp(text, "infinity") == 0) {
		*n = INT64_MAX;
		return 0;
	}
	size_t digits = strspn(text, "0123456789.");
	double value = strtod(text, &end);
	if (digits == 0 || end != text + digits)
		return -EINVAL;
	end += strspn(end, BLANKS);
	const char *suffix = *end != '\0' ? strchr(suffixes, *end) : NULL;
	for (const char *s = suffixes; suffix != NULL && s <= suffix; s++)
		value *= 1024;
	end += suffix != NULL;
	end += *end == 'B';
	if (*end != '\0' || value > 9e18)
		return -EINVAL;
	*n = (int64_t)value;
	return 0;
}

int systemd_yes(const char *text)
{
	static const char *const words[] = {"1", "yes", "y", "true", "t", "on", "0", "no", "n", "false", "f", "off"};

	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		if (strcasecmp(words[i], text) == 0)
			return i < 6;
	return -1;
}
