/* box_upper.c — a box of one's own as a shared object: sends each line back in upper case.
 *
 * hark serve and harkd load it by its path and give it all that boxes have: any address, model, limits, access, a log
 * line. What they know of it is the row at the end: its options are theirs to read, from the command line and from
 * hark.conf alike. See hark-box(7).
 *
 *   cc -shared -fPIC $(pkg-config --cflags hark) -o upper.so box_upper.c
 *   hark serve tcp://127.0.0.1:7000 ./upper.so --greeting hello
 *
 *   [upper]
 *   listen = tcp://127.0.0.1:7000
 *   box = /usr/local/lib/hark/upper.so
 *   greeting = hello */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "hark.h"

#define LINE_MAX_BYTES 1000

/* The state: zeroed by whoever loads us, options at their places. */
struct upper {
	const char *greeting; /* NULL: none */
	int64_t lines;        /* that a connection may have; 0: any number */
};

static void serve(struct hark_conn *c, void *arg)
{
	const struct upper *u = arg;
	char line[LINE_MAX_BYTES];
	ssize_t n;

	if (u->greeting != NULL && hark_printf(c, "%s\r\n", u->greeting) < 0)
		return;
	for (int64_t i = 0; (u->lines == 0 || i < u->lines) && hark_idle(c) > 0; i++) {
		n = hark_readline(c, line, sizeof line);
		if (n <= 0)
			return;
		for (ssize_t k = 0; k < n; k++)
			line[k] = (char)toupper((unsigned char)line[k]);
		if (hark_write(c, line, (size_t)n) < 0)
			return;
	}
}

static const struct hark_option options[] = {
	{"greeting", HARK_OPTION_TEXT, offsetof(struct upper, greeting), "TEXT", "a line that is sent first"},
	{"lines", HARK_OPTION_NUMBER, offsetof(struct upper, lines), "NUMBER", "end after so many lines; 0: never",
         .standard = "0"},
	{NULL},
};

const struct hark_box_row hark_box_row = {
	.version = HARK_BOX_VERSION,
	.name = "upper",
	.summary = "sends each line back in upper case",
	.options = options,
	.state_bytes = sizeof(struct upper),
	.stream = true,
	.serve = serve,
};
