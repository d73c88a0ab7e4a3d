/* log.c — see log.h. A line is rendered into the caller's stack (about 5 KB, fit for a fiber's) and leaves by one call.
 *
 * How that call is kept from waiting depends on what takes the line:
 *   - syslog and journal: datagrams with MSG_DONTWAIT;
 *   - a log file: opened here with O_NONBLOCK, which a fifo of that name heeds. A file on a disk is written plainly:
 * pwritev2(2)'s RWF_NOWAIT is refused there (ext4, tmpfs) or fails wherever a block must be allocated, which is what a
 * log does all day;
 *   - standard error is shared with other programs, so its O_NONBLOCK is not ours to set. RWF_NOWAIT works for pipes,
 * sockets and /dev/null (Linux 6.18); terminals and named fifos refuse it, and get poll(2) before a write(2) of at most
 * PIPE_BUF bytes. A broken pipe raises SIGPIPE as for anyone: harkd catches it.
 *
 * What is lost is counted in memory that all processes forked after log_open() share, and told by the next line that
 * leaves, whoever writes it. There also lies which file a reload has made anew: each process opens it by itself with
 * its next line, where it may; one that has become another user keeps the old one.
 *
 * log_open(): one thread of the supervisor. All else: any process, any thread, never a signal handler. The descriptor
 * is log.c's own and keeps its number as long as there is one. */
#include "log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/limits.h> /* PATH_MAX, PIPE_BUF; <limits.h> may be found as the limiter.h beside this file */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

#define SYSLOG_SOCKET  "/dev/log"
#define JOURNAL_SOCKET "/run/systemd/journal/socket"
#define VALUE_MAX      440          /* bytes of one value in a line: a unix path of hostile bytes, each as \xNN */
#define MESSAGE_MAX    1024         /* bytes of an event's words, before escaping */
#define MESSAGE_LONG   3000         /* and after */
#define SD_ID          "hark@32473" /* the enterprise number that RFC 5612 sets aside: hark has none of its own */

static_assert(TEXT_LINE_MAX <= PIPE_BUF, "a line is one atomic write to a pipe");

/* What a line tells: an event's message, or a connection. */
struct entry {
	enum log_level level;
	const char *service; /* may be NULL */
	const char *message; /* NULL: a connection */
	const struct log_connection *conn;
};

enum wait_by { WAIT_UNKNOWN = 0, WAIT_PLAIN, WAIT_NOWAIT, WAIT_POLL };

struct sink {
	const char *name;
	void (*render)(struct text *t, const struct entry *e);
	int (*put)(struct text *t); /* 0 or -errno */
};

static void render_stderr(struct text *t, const struct entry *e);
static void render_file(struct text *t, const struct entry *e);
static void render_syslog(struct text *t, const struct entry *e);
static void render_journal(struct text *t, const struct entry *e);
static int put_stream(struct text *t);
static int put_datagram(struct text *t);

static const struct sink sinks[] = {
	{"stderr", render_stderr, put_stream},
	{"syslog", render_syslog, put_datagram},
	{"journal", render_journal, put_datagram},
	{"file", render_file, put_stream},
};
#define SINK_FILE (&sinks[3])

/* Shared by all processes that were forked after the first log_open(). Relaxed where nothing is said: counts. */
struct shared {
	_Atomic uint64_t lost;
	_Atomic uint32_t generation; /* of the file; stored (release) after dev and ino are, loaded (acquire) before */
	_Atomic dev_t dev;
	_Atomic ino_t ino;
};

static struct shared alone; /* until there is a shared one */

/* Written by log_open() alone, but for what is atomic. */
static struct {
	const struct sink *sink;
	int fd;
	char path[PATH_MAX]; /* of the file or the socket */
	enum config_log_format format;
	int facility;
	bool connections;
	struct shared *shared;
	_Atomic uint32_t generation; /* the one that fd is of; an exchange decides which thread opens a new one */
	_Atomic enum wait_by wait_by;
	_Atomic bool torn; /* a line left in part */
} out = {.sink = sinks, .fd = STDERR_FILENO, .facility = 3, .connections = true, .shared = &alone};

/* ---- values ---------------------------------------------------------------------------------- */

/* How foreign bytes are made harmless: WORD has no blank, so that a line can be taken apart at them; PHRASE has; PARAM
 * is a value of RFC 5424 section 6.3.3. */
enum style { WORD, PHRASE, PARAM };

/* One byte's form. Returns its length, at most 5. */
static size_t escape(char form[8], unsigned char c, enum style style)
{
	bool plain = c > ' ' && c < 0x7f && !(c == '\\' && style == WORD);

	if (style == PARAM && strchr("\"\\]", c) != NULL && c != '\0')
		return (size_t)snprintf(form, 8, "\\%c", c);
	if (plain || (c == ' ' && style != WORD)) {
		form[0] = (char)c;
		return 1;
	}
	return (size_t)snprintf(form, 8, style == PARAM ? "\\\\x%02x" : "\\x%02x", c);
}

/* At most max bytes of it, "..." in place of the rest. Empty or NULL: "-", where it is a word. */
static void add_value(struct text *t, const char *s, enum style style, size_t max)
{
	size_t room = t->cap - 1 - t->len, end = t->len + (max < room ? max : room);
	char form[8];

	if (s == NULL || s[0] == '\0')
		s = style == WORD ? "-" : "";
	for (; *s != '\0'; s++) {
		size_t n = escape(form, (unsigned char)*s, style);
		/* The dots must fit after every byte but the last one. */
		if (t->len + n + (s[1] != '\0' ? 3 : 0) > end) {
			text_add(t, "%.*s", (int)(end - t->len), "...");
			return;
		}
		memcpy(t->buf + t->len, form, n);
		t->len += n;
	}
	t->buf[t->len] = '\0';
}

/* A JSON string of at most max bytes, whole in any case: what is cut is cut within the quotes. */
static void add_string(struct text *t, const char *s, size_t max)
{
	size_t n = s != NULL ? strnlen(s, max) : 0, room = t->cap - t->len;
	struct text value = {.buf = t->buf + t->len, .cap = max + 1 < room ? max + 1 : room};

	for (;; n = n * 3 / 4) {
		value.len = 0;
		text_add_json(&value, s, n);
		if (value.len + 1 < value.cap || n == 0)
			break;
	}
	t->len += value.len;
}

static void add_time(struct text *t, int64_t realtime_ns, int digits)
{
	time_t seconds = (time_t)(realtime_ns / 1000000000);
	int64_t part = realtime_ns % 1000000000;
	struct tm tm = {0};
	char stamp[32];

	for (int i = digits; i < 9; i++)
		part /= 10;
	(void)gmtime_r(&seconds, &tm);
	(void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
	text_add(t, "%s.%0*" PRId64 "Z", stamp, digits, part);
}

static int64_t realtime_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void add_count(struct text *t, int64_t n, const char *unknown)
{
	if (n < 0)
		text_add(t, "%s", unknown);
	else
		text_add(t, "%" PRId64, n);
}

/* ---- words ----------------------------------------------------------------------------------- */

/* How it ended: the one field that is a phrase. */
static void add_outcome(struct text *t, const struct log_connection *c)
{
	if (c->refused != NULL) {
		text_add(t, "refused: ");
		add_value(t, c->refused, PHRASE, VALUE_MAX);
		return;
	}
	if (c->error != 0)
		text_add(t, "%s", hark_strerror(c->error));
	if (c->error != 0 && c->status != 0)
		text_add(t, ", ");
	if (WIFSIGNALED(c->status)) {
		const char *name = sigdescr_np(WTERMSIG(c->status));
		text_add(t, "killed by signal %d (%s)", WTERMSIG(c->status), name != NULL ? name : "unknown");
	} else if (c->status != 0) {
		text_add(t, "exit status %d", WEXITSTATUS(c->status));
	} else if (c->error == 0) {
		text_add(t, "done");
	}
}

/* hark-log(5) promises the places of the fields. */
static void add_connection(struct text *t, const struct log_connection *c)
{
	add_value(t, c->service, WORD, VALUE_MAX);
	text_add(t, " ");
	add_value(t, c->peer, WORD, VALUE_MAX);
	text_add(t, " -> ");
	add_value(t, c->local, WORD, VALUE_MAX);
	text_add(t, " ");
	add_value(t, c->box, WORD, VALUE_MAX);
	text_add(t, " pid %d %.3f ms in ", (int)c->pid, (double)c->duration_ns / 1e6);
	add_count(t, c->bytes_in, "-");
	text_add(t, " out ");
	add_count(t, c->bytes_out, "-");
	text_add(t, " ");
	add_outcome(t, c);
}

static void add_event(struct text *t, const struct entry *e)
{
	if (e->service != NULL) {
		add_value(t, e->service, WORD, VALUE_MAX);
		text_add(t, ": ");
	}
	add_value(t, e->message, PHRASE, MESSAGE_LONG);
}

/* ---- fields: the same in JSON, as syslog's structured data, and in the journal ------------------- */

struct field {
	const char *name;
	enum { STRING, INTEGER, SECONDS } kind;
	const char *s;
	int64_t n; /* SECONDS: nanoseconds; INTEGER -1: not known */
};

#define FIELDS_MAX 12

/* What is known of a connection; of an event the service alone. Returns how many. */
static int fields_of(const struct entry *e, struct field f[FIELDS_MAX])
{
	const struct log_connection *c = e->conn;
	int n = 0;

	f[n++] = (struct field){"service", STRING, .s = e->service};
	if (e->message != NULL)
		return n;
	f[n++] = (struct field){"box", STRING, .s = c->box};
	f[n++] = (struct field){"peer", STRING, .s = c->peer};
	f[n++] = (struct field){"local", STRING, .s = c->local};
	f[n++] = (struct field){"pid", INTEGER, .n = c->pid};
	f[n++] = (struct field){"seconds", SECONDS, .n = c->duration_ns};
	f[n++] = (struct field){"bytes_in", INTEGER, .n = c->bytes_in};
	f[n++] = (struct field){"bytes_out", INTEGER, .n = c->bytes_out};
	f[n++] = (struct field){"refused", STRING, .s = c->refused};
	f[n++] = (struct field){"error", STRING, .s = c->error != 0 ? hark_strerror(c->error) : NULL};
	if (WIFSIGNALED(c->status))
		f[n++] = (struct field){"signal", INTEGER, .n = WTERMSIG(c->status)};
	else
		f[n++] = (struct field){"status", INTEGER, .n = WEXITSTATUS(c->status)};
	return n;
}

static void add_number(struct text *t, const struct field *f)
{
	if (f->kind == SECONDS)
		text_add(t, "%.6f", (double)f->n / 1e9);
	else
		add_count(t, f->n, "null");
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR: return "error";
	case LOG_LEVEL_WARNING: return "warning";
	case LOG_LEVEL_NOTICE: return "notice";
	case LOG_LEVEL_INFO: break;
	}
	return "info";
}

static void add_object(struct text *t, const struct entry *e)
{
	struct field f[FIELDS_MAX];
	int n = fields_of(e, f);

	text_add(t, "{\"time\":\"");
	add_time(t, e->message != NULL ? realtime_ns() : e->conn->opened_realtime_ns, 3);
	text_add(t, "\",\"level\":\"%s\"", level_name(e->level));
	for (int i = 0; i < n; i++) {
		text_add(t, ",\"%s\":", f[i].name);
		if (f[i].kind == STRING)
			add_string(t, f[i].s, VALUE_MAX);
		else
			add_number(t, &f[i]);
	}
	if (e->message != NULL) {
		text_add(t, ",\"message\":");
		add_string(t, e->message, MESSAGE_LONG);
	}
	text_add(t, "}");
}

/* Fields without a value are left out where the form does not call for them. */
static bool has_value(const struct field *f)
{
	return f->kind == STRING ? f->s != NULL && f->s[0] != '\0' : f->n >= 0;
}

static void add_structured_data(struct text *t, const struct entry *e)
{
	struct field f[FIELDS_MAX];
	int n = fields_of(e, f);

	if (e->message != NULL && e->service == NULL) {
		text_add(t, "-");
		return;
	}
	text_add(t, "[" SD_ID);
	for (int i = 0; i < n; i++) {
		if (!has_value(&f[i]))
			continue;
		text_add(t, " %s=\"", f[i].name);
		if (f[i].kind == STRING)
			add_value(t, f[i].s, PARAM, VALUE_MAX);
		else
			add_number(t, &f[i]);
		text_add(t, "\"");
	}
	text_add(t, "]");
}

static void add_journal_fields(struct text *t, const struct entry *e)
{
	struct field f[FIELDS_MAX];
	int n = fields_of(e, f);

	for (int i = 0; i < n; i++) {
		if (!has_value(&f[i]))
			continue;
		text_add(t, "HARK_");
		for (const char *c = f[i].name; *c != '\0'; c++)
			text_add(t, "%c", *c == '_' ? '_' : *c - 'a' + 'A');
		text_add(t, "=");
		if (f[i].kind == STRING)
			add_value(t, f[i].s, PHRASE, VALUE_MAX);
		else
			add_number(t, &f[i]);
		text_add(t, "\n");
	}
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* The text of a message whose time and sender travel beside it. */
static void add_message(struct text *t, const struct entry *e)
{
	if (out.format == CONFIG_LOG_JSON)
		add_object(t, e);
	else if (e->message != NULL)
		add_event(t, e);
	else
		add_connection(t, e->conn);
}

static void render_stream(struct text *t, const struct entry *e, bool timed)
{
	/* The rest of a line that left in part must not run into this one. */
	if (atomic_exchange_explicit(&out.torn, false, memory_order_relaxed))
		text_add(t, "\n");
	if (out.format == CONFIG_LOG_TEXT && (timed || e->message == NULL)) {
		add_time(t, e->message != NULL ? realtime_ns() : e->conn->opened_realtime_ns, 3);
		text_add(t, " ");
	}
	if (out.format == CONFIG_LOG_TEXT && e->message != NULL)
		text_add(t, "harkd: ");
	add_message(t, e);
	if (t->len + 1 >= t->cap)
		t->len = t->cap - 2;
	text_add(t, "\n");
}

static void render_stderr(struct text *t, const struct entry *e)
{
	render_stream(t, e, false);
}

static void render_file(struct text *t, const struct entry *e)
{
	render_stream(t, e, true);
}

/* RFC 5424 section 6. Not preceded by a byte order mark, so to its letter the message is MSG-ANY. */
static void render_syslog(struct text *t, const struct entry *e)
{
	char host[256] = "";

	(void)gethostname(host, sizeof host - 1);
	text_add(t, "<%d>1 ", out.facility * 8 + (int)e->level);
	add_time(t, realtime_ns(), 6);
	text_add(t, " ");
	add_value(t, host, WORD, 255);
	text_add(t, " harkd %d %s ", (int)getpid(), e->message != NULL ? "event" : "connection");
	add_structured_data(t, e);
	text_add(t, " ");
	add_message(t, e);
}

/* The journal's native protocol: a field a line. No value has a newline: they are all printable, or JSON. */
static void render_journal(struct text *t, const struct entry *e)
{
	text_add(t, "PRIORITY=%d\nSYSLOG_IDENTIFIER=harkd\nSYSLOG_FACILITY=%d\n", (int)e->level, out.facility);
	add_journal_fields(t, e);
	text_add(t, "MESSAGE=");
	add_message(t, e);
	if (t->len + 1 >= t->cap)
		t->len = t->cap - 2;
	text_add(t, "\n");
}

/* ---- out ------------------------------------------------------------------------------------- */

/* Finds out how standard error, or the file, is kept from waiting. */
static enum wait_by find_wait_by(void)
{
	struct stat st;

	if (out.sink == SINK_FILE || (fstat(out.fd, &st) == 0 && S_ISREG(st.st_mode)))
		return WAIT_PLAIN;
	return WAIT_NOWAIT;
}

static ssize_t write_once(struct text *t)
{
	struct iovec line = {t->buf, t->len};
	struct pollfd ready = {.fd = out.fd, .events = POLLOUT};
	enum wait_by by = atomic_load_explicit(&out.wait_by, memory_order_relaxed);

	if (by == WAIT_UNKNOWN)
		by = find_wait_by();
	if (by == WAIT_NOWAIT) {
		ssize_t n = pwritev2(out.fd, &line, 1, -1, RWF_NOWAIT);
		if (n >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL))
			return n;
		by = WAIT_POLL;
	}
	atomic_store_explicit(&out.wait_by, by, memory_order_relaxed);
	if (by == WAIT_POLL && poll(&ready, 1, 0) == 0) {
		errno = EAGAIN;
		return -1;
	}
	return write(out.fd, t->buf, t->len);
}

static int put_stream(struct text *t)
{
	ssize_t n;

	do
		n = write_once(t);
	while (n < 0 && errno == EINTR);
	if ((size_t)n == t->len)
		return 0;
	int err = n < 0 ? -errno : -EAGAIN;
	/* A terminal, or a disk that is full, took a part; or the newline after an earlier part has not left either. */
	if (n > 0 || t->buf[0] == '\n')
		atomic_store_explicit(&out.torn, true, memory_order_relaxed);
	return err;
}

static int connect_path(int fd, const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof to.sun_path)
		return -ENAMETOOLONG;
	memcpy(to.sun_path, path, strlen(path) + 1);
	return connect(fd, (const struct sockaddr *)&to, sizeof to) < 0 ? -errno : 0;
}

static int put_datagram(struct text *t)
{
	for (bool again = false;; again = true) {
		if (send(out.fd, t->buf, t->len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return 0;
		int err = errno;
		/* The daemon was restarted: its socket is another one of the same name. A datagram socket may be
		 * connected anew. */
		if (again || (err != ECONNREFUSED && err != ENOTCONN && err != ECONNRESET && err != EPIPE &&
		              err != EDESTADDRREQ))
			return -err;
		if (connect_path(out.fd, out.path) < 0)
			return -err;
	}
}

/* ---- opening --------------------------------------------------------------------------------- */

/* O_NONBLOCK: a fifo without a reader is an error here, and a full one loses lines. */
#define FILE_FLAGS (O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

/* A reload has made the log file anew. This process may be inside a chroot or another user, and what it finds by that
 * name anything: it takes the very file that log_open() made, or keeps what it has. */
static void follow_file(void)
{
	uint32_t generation = atomic_load_explicit(&out.shared->generation, memory_order_acquire);
	struct stat st;

	if (atomic_exchange_explicit(&out.generation, generation, memory_order_relaxed) == generation)
		return;
	int fd = open(out.path, FILE_FLAGS);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && st.st_dev == atomic_load_explicit(&out.shared->dev, memory_order_relaxed) &&
	    st.st_ino == atomic_load_explicit(&out.shared->ino, memory_order_relaxed))
		(void)dup3(fd, out.fd, O_CLOEXEC);
	(void)close(fd);
}

static const char *socket_path(const struct sink *sink)
{
	bool syslog = strcmp(sink->name, "syslog") == 0;
	const char *override = getenv(syslog ? "HARKD_SYSLOG_SOCKET" : "HARKD_JOURNAL_SOCKET");

	return override != NULL && override[0] != '\0' ? override : syslog ? SYSLOG_SOCKET : JOURNAL_SOCKET;
}

static int open_socket(const char *path, int *to)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	int err = connect_path(fd, path);
	if (err < 0) {
		(void)close(fd);
		return err;
	}
	*to = fd;
	return 0;
}

static int open_sink(const struct sink *sink, const char *path, int *fd)
{
	if (strcmp(sink->name, "stderr") == 0) {
		*fd = STDERR_FILENO;
		return 0;
	}
	if (sink != SINK_FILE)
		return open_socket(path, fd);
	*fd = open(path, FILE_FLAGS | O_CREAT, 0640);
	return *fd < 0 ? -errno : 0;
}

/* NULL: neither a name nor an absolute path. */
static const struct sink *sink_of(const char *name)
{
	if (name == NULL)
		return &sinks[0];
	if (name[0] == '/')
		return SINK_FILE;
	for (const struct sink *s = sinks; s != SINK_FILE; s++)
		if (strcmp(s->name, name) == 0)
			return s;
	return NULL;
}

/* RFC 5424 section 6.2.1, by the names of syslog(3). -1: no such facility. */
static int facility_of(const char *name)
{
	static const char *const names[] = {
		"kern",   "user",   "mail",   "daemon",   "auth",   "syslog",        "lpr",
		"news",   "uucp",   "cron",   "authpriv", "ftp",    [16] = "local0", "local1",
		"local2", "local3", "local4", "local5",   "local6", "local7",
	};

	if (name == NULL)
		name = "daemon";
	for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++)
		if (names[i] != NULL && strcmp(names[i], name) == 0)
			return i;
	return -1;
}

static int failed(struct hark_why *why, int err, const char *what, const char *path, const char *advice)
{
	if (why != NULL)
		(void)snprintf(why->text, sizeof why->text, "log %.120s%s%.60s: %s%s", what, path[0] != '\0' ? " " : "",
		               path, hark_strerror(err), advice);
	return err;
}

/* Without shared memory each process counts what it loses itself, and keeps its file. */
static void share(void)
{
	if (out.shared != &alone)
		return;
	struct shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return;
	atomic_store_explicit(&s->lost, atomic_load_explicit(&alone.lost, memory_order_relaxed), memory_order_relaxed);
	out.shared = s;
}

/* The number of the descriptor stays: other processes' tables are copies, but who asked log_fd() may remember it. */
static void take_fd(int fd)
{
	if (out.fd > STDERR_FILENO && fd > STDERR_FILENO && dup3(fd, out.fd, O_CLOEXEC) >= 0) {
		(void)close(fd);
		return;
	}
	if (out.fd > STDERR_FILENO)
		(void)close(out.fd);
	out.fd = fd;
}

static void publish_file(void)
{
	struct stat st;

	if (out.sink != SINK_FILE || fstat(out.fd, &st) < 0)
		return;
	atomic_store_explicit(&out.shared->dev, st.st_dev, memory_order_relaxed);
	atomic_store_explicit(&out.shared->ino, st.st_ino, memory_order_relaxed);
	uint32_t next = atomic_load_explicit(&out.shared->generation, memory_order_relaxed) + 1;
	atomic_store_explicit(&out.generation, next, memory_order_relaxed);
	atomic_store_explicit(&out.shared->generation, next, memory_order_release);
}

int log_open(const struct config *c, struct hark_why *why)
{
	const struct sink *sink = sink_of(c->log);
	int facility = facility_of(c->syslog_facility), fd = -1;

	if (sink == NULL)
		return failed(why, -EINVAL, c->log, "", " (stderr, syslog, journal, or an absolute path)");
	if (facility < 0)
		return failed(why, -EINVAL, "facility", c->syslog_facility,
		              " (daemon, user, local0, ...: see syslog(3))");
	const char *path = sink == SINK_FILE ? c->log : sink == &sinks[0] ? "" : socket_path(sink);
	if (strlen(path) >= sizeof out.path)
		return failed(why, -ENAMETOOLONG, path, "", "");
	int err = open_sink(sink, path, &fd);
	if (err < 0)
		return failed(why, err, sink->name, path, sink == SINK_FILE ? "" : " (is the daemon running?)");
	share();
	take_fd(fd);
	out.sink = sink;
	memcpy(out.path, path, strlen(path) + 1);
	out.format = c->log_format;
	out.facility = facility;
	out.connections = c->log_connections;
	atomic_store_explicit(&out.wait_by, WAIT_UNKNOWN, memory_order_relaxed);
	publish_file();
	return 0;
}

bool log_is_plain_stderr(void)
{
	return out.sink == &sinks[0] && out.format == CONFIG_LOG_TEXT;
}

int log_leave_stderr(void)
{
	if (out.fd != STDERR_FILENO)
		return 0;
	int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (fd < 0)
		return -errno;
	out.fd = fd;
	return 0;
}

int log_fd(void)
{
	return out.fd;
}

/* ---- in -------------------------------------------------------------------------------------- */

static int put(const struct entry *e)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	out.sink->render(&t, e);
	return out.sink->put(&t);
}

/* What was lost before is told before. Returns 0, or -errno: the line is lost. */
static int emit(const struct entry *e)
{
	uint64_t lost = atomic_exchange_explicit(&out.shared->lost, 0, memory_order_relaxed);
	int err = 0;

	if (out.sink == SINK_FILE)
		follow_file();
	if (lost > 0) {
		char words[48];
		(void)snprintf(words, sizeof words, "%" PRIu64 " line%s lost", lost, lost == 1 ? " was" : "s were");
		err = put(&(struct entry){.level = LOG_LEVEL_WARNING, .message = words});
		if (err == 0)
			lost = 0;
	}
	if (err == 0)
		err = put(e);
	if (err < 0)
		atomic_fetch_add_explicit(&out.shared->lost, lost + 1, memory_order_relaxed);
	return err;
}

void log_event(enum log_level level, const char *service, const char *format, ...)
{
	int saved = errno;
	char words[MESSAGE_MAX];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(words, sizeof words, format, args);
	va_end(args);
	(void)emit(&(struct entry){.level = level, .service = service, .message = words});
	errno = saved;
}

void log_connection(const struct log_connection *l, _Atomic uint64_t *dropped)
{
	int saved = errno;

	if (!out.connections)
		return;
	int err = emit(&(struct entry){.level = LOG_LEVEL_INFO, .service = l->service, .conn = l});
	if (err < 0 && dropped != NULL)
		atomic_fetch_add_explicit(dropped, 1, memory_order_relaxed);
	errno = saved;
}
