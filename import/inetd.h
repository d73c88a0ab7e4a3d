/* inetd.h — what the parts of import_inetd() share: the text, its words, and what one service's words say.
 *
 *   inetd.c           files, lines, directives, services as seven columns
 *   inetd_keys.c      services as NetBSD's "key = value, …;"
 *   inetd_text.c      lines and words, and the memory for all that was read
 *   inetd_service.c   from a service's words to a section of the document
 *   inetd_tcpmux.c    services that are named at tcpmux's port
 *
 * First every service is read, then all are translated: which address families "tcp" means, and which line counts of
 * two for one address, is known only when the last line is. */
#ifndef INETD_H
#define INETD_H

#include <stdbool.h>
#include <stddef.h>

#include "document.h"

#define INETD_LINE_MAX     65536      /* bytes */
#define INETD_FILE_MAX     (16 << 20) /* bytes */
#define INETD_SERVICES_MAX 4096       /* harkd serves a quarter of them at most */
#define INETD_DEPTH_MAX    16         /* files that include each other */
#define INETD_FILES_MAX    1000       /* in all */

/* Where the reading of a text is. */
struct inetd_text {
	const char *at, *end;
	const char *file; /* the document's */
	int line;         /* of at, from 1 */
	bool bad;         /* inetd_word() met a mistake; the caller clears it */
};

struct inetd_words {
	char **word;
	size_t n;
};

/* One service as its file says it; NULL: not said. Texts are the reader's. */
struct inetd_entry {
	struct config_place place;
	const char *host;  /* what stands before the service's ':', a list; "*" by default */
	const char *owner; /* FreeBSD's "user:group:mode" of a unix path */
	const char *service;
	const char *type;     /* stream, dgram …; with NetBSD's ",10" and ":filter" */
	const char *protocol; /* with ",rcvbuf=64k" */
	const char *wait;     /* with ".max", ":max", "/max-child/…" */
	const char *user;     /* with ".group", ":group", "/login-class" */
	const char *program;
	struct inetd_words argv;
	/* the key-value form's own */
	const char *group, *service_max, *ip_max, *accept_max, *sndbuf, *recvbuf, *filter, *ipsec;
	unsigned many; /* keys with any number of values that were given, a bit each */
	bool off;
};

/* What inetd_translate() makes of an entry. */
struct inetd_service {
	const struct inetd_entry *e;
	const struct inetd_protocol *protocol;
	const char *name; /* the last part of a path; behind tcpmux what clients say */
	int type;
	bool wait;
	const char *box; /* of an internal service; NULL: a program's */
	long rate, max_conns, rate_per_source,
		max_per_source; /* the first and third in a minute; 0: none, -1: not said */
	char *user, *group, *class;
	char *listen; /* addresses */
	const char *scheme;
	bool done;   /* it has its section, or shares another's, or gets none */
	bool behind; /* it is tcpmux's */
};

/* Of a socket. */
struct inetd_protocol {
	const char *name;
	int type;
	const char *scheme;
	const char *look_up; /* services(5)'s name of it; NULL: a path */
};

/* Words with blanks between them. */
struct inetd_line {
	char *text; /* the caller's to free */
	size_t n, room;
};

struct inetd {
	struct document *document;
	struct inetd_entry *entries;
	size_t n;
	struct inetd_kept *kept;           /* texts and lists of words */
	const char *host;                  /* for lines that name none */
	const char *ipsec;                 /* "#@": for lines from here on; NULL: none */
	const struct inetd_source *source; /* the file being read, and by it those that include it */
	int files;                         /* read so far */
	bool full;                         /* told that there are too many services or files */
	bool no_memory;                    /* everything is given up */
};

/* inetd_text.c */

/* n bytes of s and a NUL, which live as long as r; NULL if no memory. */
char *inetd_keep(struct inetd *r, const char *s, size_t n);

/* Adds word to w. */
void inetd_add(struct inetd *r, struct inetd_words *w, const char *word);

void inetd_forget(struct inetd *r);

/* Adds words, or one word in quotes if it needs them, to the line. */
void inetd_append(struct inetd *r, struct inetd_line *l, const char *words);
void inetd_append_quoted(struct inetd *r, struct inetd_line *l, const char *word);

/* Takes the line over. NULL: there was no memory for all of it. */
char *inetd_finish(struct inetd *r, struct inetd_line *l);

struct config_place inetd_place(const struct inetd_text *t);

/* Past the line that t is in. */
void inetd_next_line(struct inetd_text *t);

/* Past blanks, and to the line that continues this one. keys: past comments and any end of a line. */
void inetd_skip(struct inetd_text *t, bool keys);

/* Whether t is at the end of its line or of the text. */
bool inetd_at_end(const struct inetd_text *t);

/* The word at t, without its quotes; "" where there is none. keys: it also ends at , ; and #, its quotes know escapes,
 * and one that is not closed is told as an error (t->bad); without, such a quote is an ordinary character, as Debian's
 * inetd has it. */
char *inetd_word(struct inetd *r, struct inetd_text *t, bool keys);

/* inetd_keys.c */

/* What follows "on" or "off", up to and including the ';'. False: the service cannot be used; it was told why. */
bool inetd_read_keys(struct inetd *r, struct inetd_text *t, struct inetd_entry *e);

/* inetd_service.c */

/* All that was read, as sections. */
void inetd_translate(struct inetd *r);

/* An error of the service. Always false. */
bool inetd_wrong(struct inetd *r, const struct inetd_entry *e, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* What is refused by name: the whole service. Always false. */
bool inetd_refuse(struct inetd *r, const struct inetd_entry *e, const char *why);

const char *inetd_last_part(const char *path);

/* The setting by which nobody may connect; NULL: there is none. */
const char *inetd_admits_nobody(const struct inetd_service *s);

/* inetd_tcpmux.c */

/* What stands behind "tcpmux/", with the '+' that it may begin with; NULL: it is no service of tcpmux's. */
const char *inetd_tcpmux_name(const struct inetd_entry *e);

/* Whether a service can be behind tcpmux. False: it was told why not. */
bool inetd_tcpmux_judge(struct inetd *r, const struct inetd_service *s);

/* Once all are judged: leaves behind those that are served there alone, and gives tcpmux their user. */
void inetd_tcpmux_sort(struct inetd *r, struct inetd_service *all, size_t n);

/* The box of tcpmux, with all that is behind it. NULL: no memory. */
char *inetd_tcpmux_box(struct inetd *r, const struct inetd_service *all, size_t n);

#endif
