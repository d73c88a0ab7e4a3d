/* ask.h — one question, one answer: what daytime, time, users and loggedin have in common.
 *
 * Over a stream: connect, send the question if there is one, read to the end, or as much as there can be. Over
 * datagrams: send the question, wait for one datagram, and try again, from a new socket, so that a late answer to an
 * earlier try is not taken for one to this. */
#ifndef ASK_H
#define ASK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "hark.h"
#include "json.h"
#include "options.h"
#include "tls.h"
#include "tool.h"

#define ASK_ANSWER_MAX 16384 /* bytes; a longer answer is cut there: peers are not trusted with our memory */

/* The options that every asking verb has. Embedded first in the verb's own arguments, so that offsets agree. */
struct ask_args {
	int64_t timeout;
	int tries;
	bool udp, json;
	const char *port;
	struct tls_args tls;
};

#define ASK_AT(member) offsetof(struct ask_args, member)
#define ASK_TIMEOUT_ROW \
	{ \
		"timeout", 0, OPTION_DURATION, "T", \
			"how long a connection, or one datagram's answer, is waited for (2s)", ASK_AT(timeout), 1 \
	}
#define ASK_TRIES_ROW \
	{ \
		"tries", 0, OPTION_COUNT, "N", "datagrams sent before giving up (3)", ASK_AT(tries), 1, 100 \
	}
#define ASK_UDP_ROW \
	{ \
		"udp", 'u', OPTION_FLAG, NULL, "ask by datagram; the same as udp://HOST", ASK_AT(udp) \
	}
#define ASK_PORT_ROW(n) \
	{ \
		"port", 'p', OPTION_TEXT, "PORT", "port or service, where HOST names none (" n ")", ASK_AT(port) \
	}
#define ASK_JSON_ROW \
	{ \
		"json", 0, OPTION_FLAG, NULL, "print JSON lines", ASK_AT(json) \
	}
#define ASK_TLS_ROWS TLS_ROWS(struct ask_args, tls)
#define ASK_DEFAULTS \
	{ \
		.timeout = 2 * HARK_S, .tries = 3 \
	}

struct ask {
	/* what to ask */
	const struct ask_args *args;
	const char *host; /* as the command line has it */
	char address[HARK_ADDRESS_MAX];
	struct hark_tls *tls; /* all have the same; NULL: the defaults */
	const void *question;
	size_t question_len;
	size_t stream_question_len; /* what of it is sent on a stream; 0: nothing is asked there */
	size_t stream_answer_len;   /* that much is the whole answer on a stream; 0: it goes to the end. len is one
	                             * more where more followed */
	bool may_be_empty;          /* an end without a byte is an answer */
	/* what came of it */
	int error; /* 0, or -errno: then why says it in words */
	struct hark_why why;
	char answer[ASK_ANSWER_MAX + 1]; /* NUL after the last byte */
	size_t len;
	int64_t sent_ns, answered_ns; /* hark_now() before the question left and after the answer came */
	struct timespec answered;     /* CLOCK_REALTIME with the latter */
};

/* Notes that a has failed, and why in words. Returns err. */
int ask_failed(struct ask *a, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Asks, into a. May suspend: a fiber's function. */
void ask(void *a);

/* Allocates n asks for hosts, NULL with *status and a message if an address or an option of TLS is bad, or memory
 * is short. */
struct ask *ask_new(const struct verb *v, const struct ask_args *args, int n, char *const hosts[], const char *scheme,
                    const char *port, int *status);
void ask_free(struct ask asks[]);

/* Asks all at once, then shows each answer in order; failures are told on standard error. Returns STATUS_DONE, or
 * STATUS_FAILED if any failed (show says so by what ask_failed() returns). */
int ask_all(const struct verb *v, struct ask asks[], int n, int (*show)(struct ask *a, bool many));

/* A verb whose operands are hosts that are all asked the same; its arguments are a struct ask_args. */
struct ask_kind {
	const void *question;
	size_t question_len, stream_answer_len;
	bool may_be_empty;
	const char *port;
	int (*show)(struct ask *a, bool many);
};

/* Its run(). */
int ask_run(const struct verb *v, int argc, char *argv[], const struct ask_kind *kind);

/* Prints the answer line by line, foreign bytes made harmless, each after "HOST: " if many. */
void ask_print_lines(const struct ask *a, bool many);

/* Begins the answer's JSON object: {"host":"…","address":"…","round_trip_s":… The verb adds to it and prints it. */
struct ask_json {
	struct text text;
	struct json json;
};

void ask_json_begin(const struct ask *a, struct ask_json *to);
/* Ends it and prints it. 0, or what ask_failed() returns. */
int ask_json_end(struct ask *a, struct ask_json *j);

#endif
