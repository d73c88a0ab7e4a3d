/* values.c — the kinds of values that keys have: how each is read, what is said of one that is wrong, and how it is
 * printed so that it is read to the same again.
 *
 * A kind is a pair of functions over the struct that its key's field is in; ranges and choices are in the key's row.
 * A value is read into a field once, fresh from calloc(3). Any thread. */
#include "inside.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "nearest.h"
#include "number.h"

#define AT(base, key, type)  ((type *)((char *)(base) + (key)->how->at))
#define SEE(base, key, type) ((const type *)((const char *)(base) + (key)->how->at))
#define MILLION              1e6

static_assert(sizeof(enum hark_model) == sizeof(int) && sizeof(enum config_start) == sizeof(int) &&
                      sizeof(enum config_log_format) == sizeof(int),
              "kind_choice writes an int");

void inside_bad(struct reading *r, const char *format, ...)
{
	char words[768];
	va_list args;

	r->bad = true;
	if (r->quiet)
		return;
	va_start(args, format);
	(void)vsnprintf(words, sizeof words, format, args);
	va_end(args);
	bool comment = strstr(r->value, " #") != NULL || strstr(r->value, " ;") != NULL;
	inside_error(r->w, r->at, "%s: %s%s", r->key->name, words,
	             comment ? " (a comment needs a line of its own)" : "");
}

void inside_set_text(struct reading *r, char **field, const char *text)
{
	*field = inside_copy(r->w, text, strlen(text));
}

void inside_print_text(const struct config_key *key, const void *base, FILE *to)
{
	const char *text = *SEE(base, key, char *);

	if (text != NULL)
		fprintf(to, "%s = %s\n", key->name, text);
}

/* ---- numbers ---- */

static void read_number(struct reading *r, const char *value, void *base)
{
	const struct config_how *how = r->key->how;
	bool minus = how->min < 0 && value[0] == '-';
	int64_t n;

	if (number_parse(value + minus, "", &n) < 0 || (minus ? -n : n) < how->min || (minus ? -n : n) > how->max)
		return inside_bad(r, "\"%.40s\" is not a number from %" PRId64 " to %" PRId64, value, how->min,
		                  how->max);
	*AT(base, r->key, int) = (int)(minus ? -n : n);
}

static void print_number(const struct config_key *key, const void *base, FILE *to)
{
	fprintf(to, "%s = %d\n", key->name, *SEE(base, key, int));
}

const struct kind kind_number = {read_number, print_number};

static void read_size(struct reading *r, const char *value, void *base)
{
	const struct config_how *how = r->key->how;
	int64_t n;

	if (number_parse(value, "kmg", &n) < 0 || n > how->max || (n < how->min && n != 0))
		return inside_bad(r, "\"%.40s\" is not a size from %" PRId64 " to %" PRId64 " bytes (64k, 1m)", value,
		                  how->min, how->max);
	*AT(base, r->key, size_t) = (size_t)n;
}

static void print_size(const struct config_key *key, const void *base, FILE *to)
{
	fprintf(to, "%s = %zu\n", key->name, *SEE(base, key, size_t));
}

const struct kind kind_size = {read_size, print_size};

static void read_octal(struct reading *r, const char *value, void *base)
{
	size_t n = strlen(value);

	if (n == 0 || n > 4 || strspn(value, "01234567") != n || strtol(value, NULL, 8) > r->key->how->max)
		return inside_bad(r, "\"%.40s\" is not an octal mode such as 022 or 660", value);
	*AT(base, r->key, int) = (int)strtol(value, NULL, 8);
}

static void print_octal(const struct config_key *key, const void *base, FILE *to)
{
	int mode = *SEE(base, key, int);

	if (mode >= 0)
		fprintf(to, "%s = %03o\n", key->name, (unsigned)mode);
}

const struct kind kind_octal = {read_octal, print_octal};

/* ---- time ---- */

static bool duration(struct reading *r, const char *value, int64_t *ns)
{
	int err = duration_parse(value, ns);

	if (err == -EINVAL)
		inside_bad(r, "\"%.40s\" is not a duration (500ms, 5s, 2m, 1h, or plain seconds)", value);
	else if (err < 0)
		inside_bad(r, "\"%.40s\" is longer than ten years", value);
	return err == 0;
}

static void read_duration(struct reading *r, const char *value, void *base)
{
	char most[32];
	int64_t ns;

	if (!duration(r, value, &ns))
		return;
	if (ns < r->key->how->min)
		return inside_bad(r, "\"%.40s\" is too short: %" PRId64 " ms is the least", value,
		                  r->key->how->min / HARK_MS);
	if (r->key->how->max > 0 && ns > r->key->how->max)
		return inside_bad(r, "\"%.40s\" is too long: %s is the most", value,
		                  duration_format(r->key->how->max, most));
	*AT(base, r->key, int64_t) = ns;
}

static void print_duration(const struct config_key *key, const void *base, FILE *to)
{
	char text[32];

	fprintf(to, "%s = %s\n", key->name, duration_format(*SEE(base, key, int64_t), text));
}

const struct kind kind_duration = {read_duration, print_duration};

/* A duration for a system call that has seconds: rounded up. */
static void read_seconds(struct reading *r, const char *value, void *base)
{
	int64_t ns;

	if (!duration(r, value, &ns))
		return;
	if (ns > r->key->how->max * HARK_S)
		return inside_bad(r, "\"%.40s\" is too long: %" PRId64 "s is the most", value, r->key->how->max);
	*AT(base, r->key, int) = (int)((ns + HARK_S - 1) / HARK_S);
}

static void print_seconds(const struct config_key *key, const void *base, FILE *to)
{
	int s = *SEE(base, key, int);

	fprintf(to, "%s = %d%s\n", key->name, s, s != 0 ? "s" : "");
}

const struct kind kind_seconds = {read_seconds, print_seconds};

/* ---- choices ---- */

static const struct choice *find_choice(const struct choice *choices, const char *value)
{
	for (; choices->name != NULL; choices++)
		if (strcmp(choices->name, value) == 0)
			return choices;
	return NULL;
}

static void no_choice(struct reading *r, const char *value)
{
	struct nearest n = {.word = value};
	char hint[96];

	for (const struct choice *c = r->key->how->choices; c->name != NULL; c++)
		nearest_offer(&n, c->name);
	inside_bad(r, "\"%.40s\" is not %s%s", value, r->key->value, nearest_hint(&n, "", hint, sizeof hint));
}

static void read_choice(struct reading *r, const char *value, void *base)
{
	const struct choice *c = find_choice(r->key->how->choices, value);

	if (c == NULL)
		return no_choice(r, value);
	*AT(base, r->key, int) = c->value;
}

static void print_value(const struct config_key *key, int value, FILE *to)
{
	for (const struct choice *c = key->how->choices; c->name != NULL; c++)
		if (c->value == value)
			fprintf(to, "%s = %s\n", key->name, c->name);
}

static void print_choice(const struct config_key *key, const void *base, FILE *to)
{
	print_value(key, *SEE(base, key, int), to);
}

const struct kind kind_choice = {read_choice, print_choice};

static void read_bool(struct reading *r, const char *value, void *base)
{
	const struct choice *c = find_choice(r->key->how->choices, value);

	if (c == NULL)
		return no_choice(r, value);
	*AT(base, r->key, bool) = c->value != 0;
}

static void print_bool(const struct config_key *key, const void *base, FILE *to)
{
	print_value(key, *SEE(base, key, bool), to);
}

const struct kind kind_bool = {read_bool, print_bool};

static void read_one_of(struct reading *r, const char *value, void *base)
{
	if (find_choice(r->key->how->choices, value) == NULL)
		return no_choice(r, value);
	inside_set_text(r, AT(base, r->key, char *), value);
}

const struct kind kind_one_of = {read_one_of, inside_print_text};

/* ---- paths ---- */

static void read_path(struct reading *r, const char *value, void *base)
{
	if (value[0] != '/')
		return inside_bad(r, "\"%.80s\" is not an absolute path", value);
	if (strlen(value) >= PATH_MAX)
		return inside_bad(r, "the path is longer than %d bytes", PATH_MAX - 1);
	inside_set_text(r, AT(base, r->key, char *), value);
}

const struct kind kind_path = {read_path, inside_print_text};

/* A word of choices, or a path. "none" is neither, and NULL. */
static void read_path_or(struct reading *r, const char *value, void *base)
{
	if (strcmp(value, "none") == 0 && find_choice(r->key->how->choices, value) != NULL)
		return;
	if (find_choice(r->key->how->choices, value) == NULL) {
		if (value[0] != '/')
			return no_choice(r, value);
		return read_path(r, value, base);
	}
	inside_set_text(r, AT(base, r->key, char *), value);
}

static void print_path_or(const struct config_key *key, const void *base, FILE *to)
{
	if (*SEE(base, key, char *) == NULL)
		fprintf(to, "%s = none\n", key->name);
	else
		inside_print_text(key, base, to);
}

const struct kind kind_path_or = {read_path_or, print_path_or};

/* Nothing is kept of it. */
static void read_nothing(struct reading *r, const char *value, void *base)
{
	(void)r, (void)value, (void)base;
}

static void print_nothing(const struct config_key *key, const void *base, FILE *to)
{
	(void)key, (void)base, (void)to;
}

const struct kind kind_include = {read_nothing, print_nothing};

/* ---- limits ---- */

/* A number of at most six decimals, so that what is printed is read to the same. */
static bool decimal(const char *text, size_t n, double *out)
{
	char buf[32];

	if (n == 0 || n >= sizeof buf || strspn(text, "0123456789.") < n)
		return false;
	memcpy(buf, text, n);
	buf[n] = '\0';
	char *end;
	double value = strtod(buf, &end);
	if (*end != '\0' || value > 1e9)
		return false;
	*out = (double)(int64_t)(value * MILLION + 0.5) / MILLION;
	return true;
}

static void print_decimal(double value, FILE *to)
{
	char buf[64];
	int n = snprintf(buf, sizeof buf, "%.6f", value);

	while (n > 0 && buf[n - 1] == '0')
		n--;
	if (n > 0 && buf[n - 1] == '.')
		n--;
	fprintf(to, "%.*s", n, buf);
}

static void read_load(struct reading *r, const char *value, void *base)
{
	double load;

	if (!decimal(value, strlen(value), &load))
		return inside_bad(r, "\"%.40s\" is not a load average such as 8 or 1.5", value);
	*AT(base, r->key, double) = load;
}

static void print_load(const struct config_key *key, const void *base, FILE *to)
{
	fprintf(to, "%s = ", key->name);
	print_decimal(*SEE(base, key, double), to);
	fputc('\n', to);
}

const struct kind kind_load = {read_load, print_load};

static const struct {
	char unit;
	int64_t ns;
} periods[] = {{'s', HARK_S}, {'m', 60 * HARK_S}, {'h', 3600 * HARK_S}, {'d', 86400 * HARK_S}};

/* EVENTS[/UNIT] [burst EVENTS] */
static bool parse_rate(const char *value, struct config_rate *rate)
{
	size_t n = strspn(value, "0123456789.");

	if (!decimal(value, n, &rate->events))
		return false;
	value += n;
	rate->period_ns = HARK_S;
	if (*value == '/') {
		rate->period_ns = 0;
		for (size_t i = 0; i < sizeof periods / sizeof periods[0]; i++)
			if (value[1] == periods[i].unit)
				rate->period_ns = periods[i].ns;
		if (rate->period_ns == 0)
			return false;
		value += 2;
	}
	rate->burst = rate->events > 1 ? rate->events : 1;
	if (*value == '\0')
		return true;
	size_t blanks = strspn(value, " \t");
	value += blanks;
	if (blanks == 0 || strncmp(value, "burst", 5) != 0)
		return false;
	value += 5;
	blanks = strspn(value, " \t");
	value += blanks;
	double burst;
	if (blanks == 0 || !decimal(value, strlen(value), &burst) || (burst > 0 && burst < 1))
		return false;
	if (burst > 0)
		rate->burst = burst;
	return true;
}

static void read_rate(struct reading *r, const char *value, void *base)
{
	struct config_rate rate;

	if (!parse_rate(value, &rate))
		return inside_bad(r, "\"%.60s\" is not a rate (50/s, 256/m, 1000/h, 50/s burst 200)", value);
	if (rate.events == 0)
		rate = (struct config_rate){.period_ns = HARK_S};
	*AT(base, r->key, struct config_rate) = rate;
}

static void print_rate(const struct config_key *key, const void *base, FILE *to)
{
	const struct config_rate *rate = SEE(base, key, struct config_rate);

	if (rate->events == 0) {
		fprintf(to, "%s = 0\n", key->name);
		return;
	}
	fprintf(to, "%s = ", key->name);
	print_decimal(rate->events, to);
	for (size_t i = 0; i < sizeof periods / sizeof periods[0]; i++)
		if (periods[i].ns == rate->period_ns)
			fprintf(to, "/%c burst ", periods[i].unit);
	print_decimal(rate->burst, to);
	fputc('\n', to);
}

const struct kind kind_rate = {read_rate, print_rate};

/* Two words that stand between blanks; false: there are not two. Each is cut into buf. */
static bool two_words(const char *value, char first[32], char second[32])
{
	size_t n = strcspn(value, " \t");
	const char *rest = value + n + strspn(value + n, " \t");

	if (n == 0 || n > 31 || rest[0] == '\0' || strlen(rest) > 31)
		return false;
	(void)snprintf(first, 32, "%.*s", (int)n, value);
	(void)snprintf(second, 32, "%s", rest);
	return true;
}

static void read_prefix(struct reading *r, const char *value, void *base)
{
	struct service *s = base;
	char four[32], six[32];
	int64_t n4, n6;

	if (!two_words(value, four, six) || number_parse(four, "", &n4) < 0 || number_parse(six, "", &n6) < 0 ||
	    n4 > 32 || n6 > 128)
		return inside_bad(
			r, "\"%.60s\" is not two lengths, of IPv4 (to 32) and IPv6 (to 128) prefixes, such as 32 64",
			value);
	s->s.source_v4_bits = (int)n4;
	s->s.source_v6_bits = (int)n6;
}

static void print_prefix(const struct config_key *key, const void *base, FILE *to)
{
	const struct service *s = base;

	fprintf(to, "%s = %d %d\n", key->name, s->s.source_v4_bits, s->s.source_v6_bits);
}

const struct kind kind_prefix = {read_prefix, print_prefix};

static bool parse_limit(const char *text, size_t n, const char *suffixes, rlim_t *out)
{
	char buf[32];
	int64_t value;

	if (n == 0 || n >= sizeof buf)
		return false;
	memcpy(buf, text, n);
	buf[n] = '\0';
	if (strcmp(buf, "unlimited") == 0) {
		*out = RLIM_INFINITY;
		return true;
	}
	if (number_parse(buf, suffixes, &value) < 0)
		return false;
	*out = (rlim_t)value;
	return true;
}

static void read_rlimit(struct reading *r, const char *value, void *base)
{
	struct config_service *s = &((struct service *)base)->s;
	const struct config_how *how = r->key->how;
	const char *colon = strchr(value, ':');
	struct rlimit limit = {0};
	size_t n = colon != NULL ? (size_t)(colon - value) : strlen(value);
	bool good = parse_limit(value, n, how->suffixes, &limit.rlim_cur);

	limit.rlim_max = limit.rlim_cur;
	if (good && colon != NULL)
		good = parse_limit(colon + 1, strlen(colon + 1), how->suffixes, &limit.rlim_max);
	if (!good)
		return inside_bad(r, "\"%.60s\" is not a limit: a number%s, \"unlimited\", or two of them, soft:hard",
		                  value, how->suffixes[0] != '\0' ? ", also with k, m or g" : "");
	if (limit.rlim_cur > limit.rlim_max) /* RLIM_INFINITY is the largest number */
		return inside_bad(r, "\"%.60s\" has a soft limit above the hard one", value);
	s->rlimit[how->number] = limit;
	s->rlimit_set |= 1u << how->number;
}

static void print_limit(rlim_t limit, FILE *to)
{
	if (limit == RLIM_INFINITY)
		fputs("unlimited", to);
	else
		fprintf(to, "%llu", (unsigned long long)limit);
}

static void print_rlimit(const struct config_key *key, const void *base, FILE *to)
{
	const struct config_service *s = &((const struct service *)base)->s;
	const struct rlimit *limit = &s->rlimit[key->how->number];

	if (!(s->rlimit_set & 1u << key->how->number))
		return;
	fprintf(to, "%s = ", key->name);
	print_limit(limit->rlim_cur, to);
	if (limit->rlim_cur != limit->rlim_max) {
		fputc(':', to);
		print_limit(limit->rlim_max, to);
	}
	fputc('\n', to);
}

const struct kind kind_rlimit = {read_rlimit, print_rlimit};
