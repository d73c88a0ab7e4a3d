/* chat.c — a room: what one connection says, every other one hears.
 *
 * Connections talk to each other through plain shared variables. That is sound because they are fibers of one worker:
 * all on one thread, switched only inside calls that may suspend, so nothing between two such calls needs a lock.
 * (Under the process model each would sit in a room of its own; so this program asks for fibers and one worker.)
 *
 * Nobody waits for a slow listener. The room keeps the last HISTORY lines in a ring; each member knows which line it
 * hears next, and a fiber of its own writes them out at the pace of its connection. Who falls behind by more than the
 * ring holds is told how many lines were missed. Memory is bounded whatever the peers do.
 *
 *   build/examples/chat tcp://127.0.0.1:7070      then twice: nc 127.0.0.1 7070 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "hark.h"

#define HISTORY    256 /* lines that a slow member may fall behind */
#define LINE_BYTES 512 /* bytes of a line, its '\n' and NUL included */
#define NAME_BYTES 32  /* bytes of a name, likewise */

struct member {
	struct hark_conn *conn;
	uint64_t hears; /* the number of the next line to write to it */
	char name[NAME_BYTES];
};

/* Used by fibers of one thread only: no lock. */
static struct {
	uint64_t said;          /* lines, ever; line i is in line[i % HISTORY] while it is kept */
	struct hark_cond spoke; /* there is a new line */
	struct {
		const struct member *by; /* to compare with, never to look into: it may have left */
		char text[LINE_BYTES + NAME_BYTES + 4];
	} line[HISTORY];
} room;

/* Adds a line to the ring and wakes who waits for one. by does not hear it; NULL: everybody does. Does not suspend. */
static void say(const struct member *by, const char *name, const char *text)
{
	room.line[room.said % HISTORY].by = by;
	snprintf(room.line[room.said % HISTORY].text, sizeof room.line[0].text, "%s: %s\n", name, text);
	room.said++;
	hark_cond_broadcast(&room.spoke);
}

/* Writes to its connection what a member has not heard yet. 0 or -errno. */
static int tell(struct member *m)
{
	while (m->hears < room.said) {
		if (room.said - m->hears > HISTORY) {
			uint64_t missed = room.said - m->hears - HISTORY;
			m->hears += missed;
			ssize_t n = hark_printf(m->conn, "(you missed %llu lines)\n", (unsigned long long)missed);
			if (n < 0)
				return (int)n;
			continue; /* the write may have suspended, and the room have moved on */
		}
		uint64_t i = m->hears++ % HISTORY;
		if (room.line[i].by == m)
			continue;
		ssize_t n = hark_write(m->conn, room.line[i].text, strlen(room.line[i].text));
		if (n < 0)
			return (int)n;
	}
	return hark_flush(m->conn);
}

/* The member's writing fiber: until it is cancelled, or the connection is cut. */
static void listen_in(void *arg)
{
	struct member *m = arg;
	int r = 0;

	while (r == 0) {
		if (m->hears < room.said)
			r = tell(m);
		else
			r = hark_cond_wait(&room.spoke, NULL, HARK_FOREVER);
	}
}

static void leave(struct member *m)
{
	for (size_t i = 0; i < HISTORY; i++) {
		if (room.line[i].by == m)
			room.line[i].by = NULL; /* the next member may come to lie at the same place */
	}
}

/* Takes the end of a line off, and whatever could trouble another's terminal. */
static void clean(char *line)
{
	line[strcspn(line, "\r\n")] = '\0';
	for (char *p = line; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	}
}

/* Reads what the member says until it ends or the service drains. */
static void converse(struct member *m)
{
	char line[LINE_BYTES];

	say(NULL, m->name, "(came in)");
	while (hark_idle(m->conn) > 0) {
		ssize_t n = hark_readline(m->conn, line, sizeof line);
		if (n == -EMSGSIZE)
			n = hark_read(m->conn, line, sizeof line - 1); /* too long for a line: take it in pieces */
		if (n <= 0)
			break;
		line[n] = '\0';
		clean(line);
		say(m, m->name, line);
	}
}

/* The box: one connection, one member. */
static void join_in(struct hark_conn *c, void *arg)
{
	struct member m = {.conn = c};
	struct hark_scope scope;

	(void)arg;
	if (hark_printf(c, "Your name? ") < 0 || hark_readline(c, m.name, sizeof m.name) <= 0)
		return;
	clean(m.name);
	m.hears = room.said;
	hark_scope_open(&scope);
	if (hark_go(&scope, m.name, listen_in, &m) == 0)
		converse(&m);
	hark_scope_close(&scope); /* ends the writing fiber before m goes */
	leave(&m);
	say(NULL, m.name, "(left)");
}

int main(int argc, char *argv[])
{
	struct hark_why why = {"the service failed"};
	struct hark_listener *l;
	struct hark_listen_opts listening = {.why = &why};
	struct hark_serve_opts serving = {.model = HARK_MODEL_FIBER, .workers = 1, .why = &why};

	int rc = hark_listen(argc > 1 ? argv[1] : "tcp://127.0.0.1:7070", &listening, &l);
	if (rc == 0)
		rc = hark_serve(&l, 1, join_in, NULL, &serving);
	if (rc < 0)
		fprintf(stderr, "chat: %s\n", why.text);
	return rc < 0;
}
