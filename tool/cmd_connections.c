/* cmd_connections.c — hark connections: who is connected to a running harkd; hark close: ends one. Main thread. */
#include <inttypes.h>
#include <string.h>

#include "control.h"
#include "hark.h"
#include "options.h"
#include "status_view.h"
#include "tool.h"

#define TIMEOUT_DEFAULT (5 * HARK_S)

struct connections_args {
	struct control_args control; /* first: the rows of all control verbs are for it */
	bool local;
};

static const struct option_row close_options[] = {
	CONTROL_JSON_ROW,
	CONTROL_PATH_ROW,
	CONTROL_TIMEOUT_ROW("5s"),
	{0},
};

static const struct option_row options[] = {
	{"local", 'l', OPTION_FLAG, NULL, "show at which address each is connected",
         offsetof(struct connections_args, local)},
	CONTROL_JSON_ROW,
	CONTROL_PATH_ROW,
	CONTROL_TIMEOUT_ROW("5s"),
	{0},
};

enum { ID, SERVICE, PID, SINCE, IN, OUT, LOCAL, PEER, COLUMNS };

static const char *const titles[COLUMNS] = {"ID", "SERVICE", "PID", "SINCE", "IN", "OUT", "LOCAL", "PEER"};

struct row {
	char cell[COLUMNS][HARK_ADDRESS_MAX + 64];
};

/* A unix peer has often no name, but always a user. */
static void format_peer(const json_t *c, char *buf, size_t cap)
{
	char peer[HARK_ADDRESS_MAX];
	const json_t *uid = json_object_get(c, "peer_uid");

	(void)control_string(c, "peer", peer, sizeof peer);
	if (json_is_integer(uid))
		(void)snprintf(buf, cap, "%s[uid=%" PRId64 ",pid=%" PRId64 "]", peer, control_count(c, "peer_uid"),
		               control_count(c, "peer_pid"));
	else
		(void)snprintf(buf, cap, "%s", peer[0] != '\0' ? peer : "-");
}

static void fill_row(struct row *r, const json_t *c)
{
	(void)control_string(c, "id", r->cell[ID], sizeof r->cell[ID]);
	(void)control_string(c, "service", r->cell[SERVICE], sizeof r->cell[SERVICE]);
	(void)snprintf(r->cell[PID], sizeof r->cell[PID], "%" PRId64, control_count(c, "pid"));
	status_view_span(control_real(c, "seconds"), r->cell[SINCE], sizeof r->cell[SINCE]);
	status_view_count(json_object_get(c, "bytes_in"), r->cell[IN], sizeof r->cell[IN]);
	status_view_count(json_object_get(c, "bytes_out"), r->cell[OUT], sizeof r->cell[OUT]);
	(void)control_string(c, "local", r->cell[LOCAL], sizeof r->cell[LOCAL]);
	if (r->cell[LOCAL][0] == '\0')
		(void)snprintf(r->cell[LOCAL], sizeof r->cell[LOCAL], "-");
	format_peer(c, r->cell[PEER], sizeof r->cell[PEER]);
}

static void widen(int width[COLUMNS], const json_t *connections)
{
	struct row r;
	const json_t *c;

	for (int i = 0; i < COLUMNS; i++)
		width[i] = (int)strlen(titles[i]);
	for (size_t k = 0; (c = json_array_get(connections, k)) != NULL; k++) {
		fill_row(&r, c);
		for (int i = 0; i < COLUMNS; i++)
			if ((int)strlen(r.cell[i]) > width[i])
				width[i] = (int)strlen(r.cell[i]);
	}
}

static void print_row(const int width[COLUMNS], const char *const cell[COLUMNS], bool local)
{
	for (int i = 0; i < PEER; i++)
		if (i != LOCAL || local)
			printf(i <= SERVICE || i == LOCAL ? "%s%-*s" : "%s%*s", i > 0 ? "  " : "", width[i], cell[i]);
	printf("  %s\n", cell[PEER]);
}

static void print_table(const json_t *answer, bool local)
{
	const json_t *connections = json_object_get(answer, "connections"), *c;
	int64_t unlisted = control_count(answer, "unlisted");
	int width[COLUMNS];

	widen(width, connections);
	if (json_array_size(connections) > 0)
		print_row(width, titles, local);
	else
		puts("nobody is connected");
	for (size_t k = 0; (c = json_array_get(connections, k)) != NULL; k++) {
		struct row r;
		const char *cells[COLUMNS];
		fill_row(&r, c);
		for (int i = 0; i < COLUMNS; i++)
			cells[i] = r.cell[i];
		print_row(width, cells, local);
	}
	if (unlisted > 0)
		printf("and %" PRId64 " more\n", unlisted);
}

static void tell(const struct control *c, const json_t *answer, const void *operand)
{
	if (c->verb == &verb_close)
		printf("%s is closed\n", (const char *)operand);
	else
		print_table(answer, ((const struct connections_args *)c->args)->local);
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct connections_args args = {.control.timeout = TIMEOUT_DEFAULT};
	struct control c;
	int status;
	int n = options_parse(self, argc, argv, &args, &status);
	bool closes = self == &verb_close;

	if (n < 0)
		return status;
	if (n > 1)
		return options_usage(self, closes ? "one connection at a time" : "one service at a time");
	if (n < 1 && closes)
		return options_usage(self, "no connection is named: hark connections tells their IDs");
	const char *operand = n == 1 ? argv[0] : NULL;
	if ((status = control_init(&c, self, &args.control, operand)) != STATUS_DONE)
		return status;
	return control_run(&c, tell, operand);
}

const struct verb verb_connections = {
	.name = "connections",
	.summary = "Lists who is connected to a running harkd",
	.usage = "[SERVICE]",
	.notes = "One row a connection: its ID, for hark close; its service; the program or worker that serves it; how "
		 "long it lasts;\n"
		 "bytes received and sent, - where only the program knows them; the peer.\n",
	.options = options,
	.run = run,
};

const struct verb verb_close = {
	.name = "close",
	.summary = "Has harkd end one connection",
	.usage = "ID",
	.notes = "hark connections tells the IDs. Peer and program see the end; a program is sent SIGTERM as well.\n",
	.options = close_options,
	.run = run,
};
