/* box.h — what a box is to whoever offers it by name (hark serve, harkd): one row of a table.
 *
 * One file a box; a new box is a new file and one row in table.c, nothing else. Boxes see hark.h, common/ and program/
 * alone. */
#ifndef BOX_H
#define BOX_H

#include "hark.h"

struct box {
	const char *name;      /* as it is asked for: "daytime" */
	const char *arguments; /* for --help: "[--nist]"; "" if it takes none */
	const char *summary;   /* one line, for lists */
	hark_box *serve;
	bool client_first; /* the peer speaks first: see struct hark_serve_opts */
	int conn_fds;      /* descriptors it opens for a connection: see struct hark_serve_opts */
	bool stream;       /* can serve a stream */
	bool datagram;     /* can serve a datagram */
	bool sessions;     /* a peer's datagrams are a session that lasts, not an answer each */
	/* Whether it can serve a SOCK_STREAM or SOCK_DGRAM with these arguments, where that depends on them: stream and
	 * datagram then say what it can with others. NULL: it does not. */
	bool (*takes)(const void *arg, int type);
	/* Where its connections go on to, for the log. NULL: nowhere. */
	const char *(*target)(const void *arg);
	/* Takes the arguments after the name apart into *arg, which is then the box's. NULL: the box takes none.
	 * -EINVAL or another -errno, with why. */
	int (*open)(int argc, char *const argv[], void **arg, struct hark_why *why);
	void (*close)(void *arg); /* frees *arg; NULL where there is nothing to free */
};

/* The table ends with a row whose name is NULL. */
extern const struct box boxes[];

/* Whether the box, opened with that arg, can serve a SOCK_STREAM or SOCK_DGRAM. */
bool box_takes(const struct box *b, const void *arg, int type);

/* The box of that name, or NULL. */
const struct box *box_find(const char *name);

#endif
