/* systemd_words.c — the words, specifiers, times and sizes of systemd.syntax(7), systemd.unit(5) and systemd.time(7).
 * Functions of their arguments; any thread. */
#include "systemd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "hark.h"

#define BLANKS " \t\n\r\v\f"
#define US_NS  INT64_C(1000)

/* \n, \s, \x41, \101 …: *at is behind the backslash. Writes the byte and moves on; what is no escape stays as it is. */
static void cut_escape(const char **at, char **to)
{
	static const char plain[] = "a\ab\bf\fn\nr\rt\tv\vs \\\\\"\"''";
	const char *p = *at;

	for (size_t i = 0; *p != '\0' && plain[i] != '\0'; i += 2) {
		if (plain[i] != *p)
			continue;
		*(*to)++ = plain[i + 1];
		*at = p + 1;
		return;
	}
	int base = *p == 'x' ? 16 : 8, length = *p == 'x' ? 2 : 3;
	char digits[4] = "", *end;
	(void)strncpy(digits, *p == 'x' ? p + 1 : p, (size_t)length);
	long byte = strspn(digits, "0123456789abcdefABCDEF") == (size_t)length ? strtol(digits, &end, base) : 0;
	if (byte > 0 && byte < 256 && *end == '\0') {
		*(*to)++ = (char)byte;
		*at = p + length + (*p == 'x');
		return;
	}
	*(*to)++ = '\\';
}

char *systemd_cut(struct document *d, const char **at, bool *plain)
{
	const char *p = *at + strspn(*at, BLANKS);
	char quote = '\0';
	bool quoted = false;

	if (*p == '\0')
		return NULL;
	char *word = malloc(strlen(p) + 1), *to = word;
	if (word == NULL) {
		d->broken = true;
		return NULL;
	}
	while (*p != '\0' && (quote != '\0' || strchr(BLANKS, *p) == NULL)) {
		char c = *p++;
		quoted = quoted || c == '"' || c == '\'' || c == '\\';
		if (c == '\\' && *p != '\0')
			cut_escape(&p, &to);
		else if (c == quote)
			quote = '\0';
		else if (quote == '\0' && (c == '"' || c == '\''))
			quote = c;
		else
			*to++ = c;
	}
	*to = '\0';
	*at = p;
	if (plain != NULL)
		*plain = !quoted;
	return word;
}

/* What stands for %c in a unit of the system's own systemd, or NULL. */
static const char *specifier(const struct unit *u, char c, char *buf, size_t cap)
{
	static const char *const system[] = {"t/run", "S/var/lib", "C/var/cache", "L/var/log", "E/etc",   "h/root",
	                                     "uroot", "U0",        "groot",       "G0",        "s/bin/sh"};
	static const char *const all[] = {"%%", "T/tmp", "V/var/tmp"};
	const char *template = strchr(u->name, '@'), *dot = strrchr(u->name, '.');
	size_t base = dot != NULL ? (size_t)(dot - u->name) : strlen(u->name);
	bool whole = template == NULL || template > u->name + base;

	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (all[i][0] == c)
			return all[i] + 1;
	for (size_t i = 0; i < sizeof system / sizeof system[0] && !u->user; i++)
		if (system[i][0] == c)
			return system[i] + 1;
	if (c == 'p' || (c == 'N' && whole))
		(void)snprintf(buf, cap, "%.*s", (int)(whole ? base : (size_t)(template - u->name)), u->name);
	else if (c == 'n' && whole)
		(void)snprintf(buf, cap, "%s", u->name);
	else if ((c == 'i' || c == 'I') && whole)
		buf[0] = '\0';
	else
		return NULL;
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
	if (fclose(to) != 0) {
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
	static const char suffixes[] = "KMGT";
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
