/* status_view.c — see status_view.h. Main thread. */
#include "status_view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control.h"

#define ROWS_MAX   4096 /* services that are shown; harkd has at most 1024 */
#define WIDTH      80   /* columns that a table fits in where it can */
#define NAME_LEAST 10   /* columns that a service's name keeps when it is cut */

/* ---- numbers --------------------------------------------------------------------------------- */

/* Five digits as they are; more with three that count: 104k, 1.04M. */
static void format_count(int64_t n, char *buf, size_t cap)
{
	double value = (double)n;
	int unit = -1;

	if (n > -100000 && n < 100000) {
		(void)snprintf(buf, cap, "%" PRId64, n);
		return;
	}
	do {
		value /= 1000;
		unit++;
	} while ((value >= 999.5 || value <= -999.5) && unit < 5);
	double size = value < 0 ? -value : value;
	(void)snprintf(buf, cap, "%.*f%c", size < 9.995 ? 2 : size < 99.95 ? 1 : 0, value, "kMGTPE"[unit]);
}

/* Two units: "3d 4h", "5m 12s", "7s". */
void status_view_span(double seconds, char *buf, size_t cap)
{
	static const struct {
		int64_t seconds;
		char letter;
	} units[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
	int64_t s = seconds > 0 && seconds < 1e15 ? (int64_t)seconds : 0;
	unsigned i = 0;

	while (i < 3 && s < units[i].seconds)
		i++;
	if (i == 3)
		(void)snprintf(buf, cap, "%" PRId64 "s", s);
	else
		(void)snprintf(buf, cap, "%" PRId64 "%c %d%c", s / units[i].seconds, units[i].letter,
		               (int)(s % units[i].seconds / units[i + 1].seconds), units[i + 1].letter);
}

void status_view_count(const json_t *n, char *buf, size_t cap)
{
	if (json_is_integer(n))
		format_count(json_integer_value(n), buf, cap);
	else
		(void)snprintf(buf, cap, "-");
}

/* All members of an object of counts, whichever they are. */
static int64_t sum(const json_t *counts)
{
	const char *key;
	json_t *value;
	uint64_t total = 0;

	json_object_foreach((json_t *)counts, key, value) total += (uint64_t)json_integer_value(value);
	return (int64_t)total;
}

static const json_t *find_service(const json_t *answer, const char *name)
{
	const json_t *services = json_object_get(answer, "services"), *s;

	for (size_t i = 0; (s = json_array_get(services, i)) != NULL && i < ROWS_MAX; i++) {
		const char *other = json_string_value(json_object_get(s, "name"));
		if (other != NULL && strcmp(other, name) == 0)
			return s;
	}
	return NULL;
}

/* Connections a second since the earlier answer; "-" where that cannot be told. */
static void format_rate(const struct status_view *v, const json_t *service, char *buf, size_t cap)
{
	const char *name = json_string_value(json_object_get(service, "name"));
	const json_t *before = v->before != NULL && name != NULL ? find_service(v->before, name) : NULL;
	int64_t now = control_count(service, "accepted"), then = control_count(before, "accepted");

	(void)snprintf(buf, cap, "-");
	if (before == NULL || v->elapsed_s <= 0 || then < 0 || now < then)
		return;
	double rate = (double)(now - then) / v->elapsed_s;
	if (rate < 99.95)
		(void)snprintf(buf, cap, "%.1f", rate);
	else
		format_count(rate < 1e18 ? (int64_t)(rate + 0.5) : INT64_MAX, buf, cap);
}

/* ---- the head -------------------------------------------------------------------------------- */

static void print_head(const struct status_view *v, FILE *to)
{
	char version[32], config[128], when[40], up[32];

	status_view_span(control_real(v->now, "uptime_s"), up, sizeof up);
	fprintf(to, "harkd %s, pid %" PRId64 ", generation %" PRId64 ", up %s, %s",
	        control_string(v->now, "version", version, sizeof version), control_count(v->now, "pid"),
	        control_count(v->now, "generation"), up, control_string(v->now, "config", config, sizeof config));
	if (json_is_true(json_object_get(v->now, "draining")))
		fputs(", draining", to);
	if (v->rates)
		fprintf(to, ", %s", control_string(v->now, "time", when, sizeof when));
	fputc('\n', to);
}

/* ---- the table ------------------------------------------------------------------------------- */

enum { SERVICE, STATE, PIDS, NOW, TOTAL, RATE, IN, OUT, REFUSED, HELD, RESTARTS, LISTENS, COLUMNS };

static const char *const titles[COLUMNS] = {
	"SERVICE", "STATE", "PIDS", "NOW", "TOTAL", "RATE/S", "IN", "OUT", "REFUSED", "HELD", "RESTARTS", "LISTENS",
};

struct row {
	char cell[COLUMNS][HARK_ADDRESS_MAX + 16];
};

#define CELL(r, column) (r)->cell[column], sizeof(r)->cell[column]

/* The first one, and how many more there are. */
static void format_pids(const json_t *workers, char *buf, size_t cap)
{
	size_t n = json_array_size(workers);
	int64_t first = control_count(json_array_get(workers, 0), "pid");

	if (n == 0)
		(void)snprintf(buf, cap, "-");
	else if (n == 1)
		(void)snprintf(buf, cap, "%" PRId64, first);
	else
		(void)snprintf(buf, cap, "%" PRId64 "+%zu", first, n - 1);
}

/* The first address, and how many more there are. */
static void format_listen(const json_t *listen, char *buf, size_t cap)
{
	const char *first = json_string_value(json_array_get(listen, 0));
	char address[HARK_ADDRESS_MAX];
	size_t n = json_array_size(listen);

	if (first == NULL)
		(void)snprintf(buf, cap, "-");
	else if (n == 1)
		(void)snprintf(buf, cap, "%s", control_clean(first, address, sizeof address));
	else
		(void)snprintf(buf, cap, "%s +%zu", control_clean(first, address, sizeof address), n - 1);
}

static void fill_row(struct row *r, const struct status_view *v, const json_t *s)
{
	(void)control_string(s, "name", CELL(r, SERVICE));
	(void)control_string(s, "state", CELL(r, STATE));
	format_pids(json_object_get(s, "workers"), CELL(r, PIDS));
	format_count(control_count(s, "now"), CELL(r, NOW));
	format_count(control_count(s, "accepted"), CELL(r, TOTAL));
	format_rate(v, s, CELL(r, RATE));
	status_view_count(json_object_get(s, "bytes_in"), CELL(r, IN));
	status_view_count(json_object_get(s, "bytes_out"), CELL(r, OUT));
	format_count(sum(json_object_get(s, "refused")), CELL(r, REFUSED));
	format_count(sum(json_object_get(s, "held")), CELL(r, HELD));
	format_count(control_count(s, "restarts"), CELL(r, RESTARTS));
	format_listen(json_object_get(s, "listen"), CELL(r, LISTENS));
}

struct layout {
	int width[COLUMNS];
	int gap;
	bool rates;
};

static bool shown(const struct layout *l, int column)
{
	return column != RATE || l->rates;
}

/* Two blanks between columns, or one where that makes it fit; then names are cut. */
static void lay_out(struct layout *l, const struct row *rows, size_t n)
{
	int total = 0, gaps = -1;

	for (int c = 0; c < COLUMNS; c++) {
		l->width[c] = (int)strlen(titles[c]);
		for (size_t i = 0; i < n; i++)
			if ((int)strlen(rows[i].cell[c]) > l->width[c])
				l->width[c] = (int)strlen(rows[i].cell[c]);
		if (shown(l, c) && c != LISTENS) { /* it ends the line, wherever that is */
			total += l->width[c];
			gaps++;
		}
	}
	l->gap = total + 2 * gaps <= WIDTH ? 2 : 1;
	int over = total + l->gap * gaps - WIDTH;
	if (over > 0 && l->width[SERVICE] > NAME_LEAST)
		l->width[SERVICE] = l->width[SERVICE] - over > NAME_LEAST ? l->width[SERVICE] - over : NAME_LEAST;
}

static void print_row(const struct layout *l, const char *const cells[COLUMNS], FILE *to)
{
	for (int c = 0; c < COLUMNS; c++) {
		const char *s = cells[c];
		int width = l->width[c];
		if (!shown(l, c))
			continue;
		if (c > 0)
			fprintf(to, "%*s", l->gap, "");
		if (c == LISTENS)
			fputs(s, to);
		else if ((int)strlen(s) > width)
			fprintf(to, "%.*s~", width - 1, s);
		else if (c <= STATE)
			fprintf(to, "%-*s", width, s);
		else
			fprintf(to, "%*s", width, s);
	}
	fputc('\n', to);
}

/* What a service's trouble is does not fit a column. */
/* What is to be renewed: a line each, and where all: every one. */
static void print_certificates(const json_t *service, const char *prefix, bool all, FILE *to)
{
	char file[300], names[300], age[16];
	const json_t *certs = json_object_get(service, "certificates");
	int64_t now = time(NULL);

	for (size_t i = 0; i < json_array_size(certs); i++) {
		const json_t *c = json_array_get(certs, i);
		int64_t days = (json_integer_value(json_object_get(c, "not_after")) - now) / (24 * 3600);
		(void)control_string(c, "age", age, sizeof age);
		if (!all && strcmp(age, "due") != 0 && strcmp(age, "expired") != 0)
			continue;
		fprintf(to, "%scertificate %s (%s) ", prefix, control_string(c, "file", file, sizeof file),
		        control_string(c, "names", names, sizeof names));
		if (strcmp(age, "expired") == 0)
			fprintf(to, "has expired\n");
		else
			fprintf(to, "expires in %lld day%s%s\n", (long long)days, days == 1 ? "" : "s",
			        strcmp(age, "due") == 0 ? ": renew it" : "");
	}
}

static void print_errors(const json_t *services, size_t n, FILE *to)
{
	char name[72], error[600];

	for (size_t i = 0; i < n; i++) {
		const json_t *s = json_array_get(services, i);
		if (control_string(s, "error", error, sizeof error)[0] != '\0')
			fprintf(to, "%s: %s\n", control_string(s, "name", name, sizeof name), error);
		(void)snprintf(error, sizeof error, "%s: ", control_string(s, "name", name, sizeof name));
		print_certificates(s, error, false, to);
	}
}

void status_view_table(const struct status_view *v, FILE *to)
{
	const json_t *services = json_object_get(v->now, "services");
	size_t all = json_array_size(services), n = all < ROWS_MAX ? all : ROWS_MAX;
	struct row *rows = calloc(n > 0 ? n : 1, sizeof *rows);
	struct layout l = {.rates = v->rates};

	print_head(v, to);
	if (rows == NULL || n == 0) {
		fputs(n == 0 ? "no services\n" : "no memory for the table\n", to);
		free(rows);
		return;
	}
	for (size_t i = 0; i < n; i++)
		fill_row(&rows[i], v, json_array_get(services, i));
	lay_out(&l, rows, n);
	print_row(&l, titles, to);
	for (size_t i = 0; i < n; i++) {
		const char *cells[COLUMNS];
		for (int c = 0; c < COLUMNS; c++)
			cells[c] = rows[i].cell[c];
		print_row(&l, cells, to);
	}
	if (all > n)
		fprintf(to, "and %zu more\n", all - n);
	print_errors(services, n, to);
	free(rows);
}

/* ---- one service ----------------------------------------------------------------------------- */

static void print_counts(const char *title, const json_t *counts, FILE *to)
{
	const char *key;
	json_t *value;
	char name[64];
	int shown_already = 0;

	fprintf(to, "  %-9s ", title);
	json_object_foreach((json_t *)counts, key, value)
	{
		if (shown_already == 32)
			break;
		fprintf(to, "%s%s %" PRId64, shown_already++ > 0 ? ", " : "", control_clean(key, name, sizeof name),
		        (int64_t)json_integer_value(value));
	}
	fputs(shown_already == 0 ? "-\n" : "\n", to);
}

static void print_listen(const json_t *listen, FILE *to)
{
	char address[HARK_ADDRESS_MAX];
	size_t n = json_array_size(listen);

	for (size_t i = 0; i < n && i < ROWS_MAX; i++) {
		const char *s = json_string_value(json_array_get(listen, i));
		fprintf(to, "  %-9s %s\n", i == 0 ? "listens" : "",
		        control_clean(s != NULL ? s : "", address, sizeof address));
	}
}

static void print_workers(const json_t *workers, FILE *to)
{
	size_t n = json_array_size(workers);

	for (size_t i = 0; i < n && i < ROWS_MAX; i++) {
		const json_t *w = json_array_get(workers, i);
		char up[40];
		status_view_span(control_real(w, "uptime_s"), up, sizeof up);
		fprintf(to, "  %-9s pid %" PRId64 ", %" PRId64 " now, up %s%s\n", i == 0 ? "workers" : "",
		        control_count(w, "pid"), control_count(w, "now"), up,
		        json_is_true(json_object_get(w, "draining")) ? ", draining" : "");
	}
	if (n == 0)
		fputs("  workers   none\n", to);
}

void status_view_service(const struct status_view *v, FILE *to)
{
	const json_t *s = json_array_get(json_object_get(v->now, "services"), 0);
	char a[600], b[64], rate[32];

	print_head(v, to);
	fprintf(to, "%s: %s\n", control_string(s, "name", a, sizeof a), control_string(s, "state", b, sizeof b));
	if (control_string(s, "error", a, sizeof a)[0] != '\0')
		fprintf(to, "  error     %s\n", a);
	print_certificates(s, "  ", true, to);
	fprintf(to, "  box       %s, model %s\n", control_string(s, "box", a, sizeof a),
	        control_string(s, "model", b, sizeof b));
	print_listen(json_object_get(s, "listen"), to);
	print_workers(json_object_get(s, "workers"), to);
	fprintf(to, "  total     %" PRId64 " accepted, %" PRId64 " closed, %" PRId64 " failed, %" PRId64 " now\n",
	        control_count(s, "accepted"), control_count(s, "closed"), control_count(s, "failed"),
	        control_count(s, "now"));
	if (v->rates) {
		format_rate(v, s, rate, sizeof rate);
		fprintf(to, "  rate      %s a second\n", rate);
	}
	if (json_is_integer(json_object_get(s, "bytes_in")))
		fprintf(to, "  bytes     %" PRId64 " in, %" PRId64 " out\n", control_count(s, "bytes_in"),
		        control_count(s, "bytes_out"));
	else
		fputs("  bytes     not known: its programs move them, over sockets that do not count\n", to);
	print_counts("refused", json_object_get(s, "refused"), to);
	print_counts("held", json_object_get(s, "held"), to);
	fprintf(to, "  started   %" PRId64 " workers, %" PRId64 " restarted, %" PRId64 " crashed\n",
	        control_count(s, "starts"), control_count(s, "restarts"), control_count(s, "crashes"));
	fprintf(to, "  log       %" PRId64 " lines lost\n", control_count(s, "log_dropped"));
}

bool status_view_fits(const json_t *answer)
{
	const json_t *services = json_object_get(answer, "services"), *s;

	if (!json_is_array(services))
		return false;
	for (size_t i = 0; (s = json_array_get(services, i)) != NULL; i++)
		if (!json_is_object(s))
			return false;
	return true;
}
