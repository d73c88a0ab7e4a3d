/* log.c — see log.h. A line is rendered into the caller's stack (about 5 KB, fit for a fiber's) and leaves by one call,
 * which does not wait: line_out.h says how of streams, syslog and the journal get datagrams with MSG_DONTWAIT. How a
 * line looks is log_line.c's.
 *
 * What is lost is counted in memory that a worker shares with its children, and told by the next line that leaves,
 * whoever writes it. Which file a reload has made anew lies in memory that workers can only read: each process takes
 * its descriptor from the worker's channel with its next line. A worker that was taken over has a descriptor that is
 * nobody else's: its flags, or where its socket leads to, are no other process's.
 *
 * log_open(): one thread of the supervisor. All else: any process, any thread, never a signal handler. The descriptor
 * is log.c's own and keeps its number as long as there is one. */
#include "log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/limits.h> /* PATH_MAX, PIPE_BUF; <limits.h> may be found as the limiter.h beside this file */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "line_out.h"
#include "log_line.h"
#include "memory_file.h"
#include "text.h"

#define SYSLOG_SOCKET  "/dev/log"
#define JOURNAL_SOCKET "/run/systemd/journal/socket"
#define MESSAGE_MAX    1024 /* bytes of an event's words, before escaping */

static_assert(TEXT_LINE_MAX <= PIPE_BUF, "a line is one atomic write to a pipe");

struct sink {
	const char *name;
	log_render *render;
	int (*put)(const struct text *t); /* 0 or -errno */
};

static int put_stream(const struct text *t);
static int put_datagram(const struct text *t);

static const struct sink sinks[] = {
	{"stderr", log_line_stderr, put_stream},
	{"syslog", log_line_syslog, put_datagram},
	{"journal", log_line_journal, put_datagram},
	{"file", log_line_file, put_stream},
};
#define SINK_FILE (&sinks[3])

/* The supervisor's, which processes that were forked after the first log_open() see. */
struct file {
	_Atomic uint32_t generation; /* stored (release) after dev and ino are, loaded (acquire) before */
	_Atomic dev_t dev;
	_Atomic ino_t ino;
};

/* Until there are shared ones. */
static struct file own_file;
static _Atomic uint64_t own_lost;

/* Written by log_open() alone, but for what is atomic. */
static struct {
	const struct sink *sink;
	struct line_out stream; /* its fd is the datagram socket, too */
	char path[PATH_MAX];    /* of the file or the socket */
	struct log_form form;
	bool connections;
	struct file *file;
	int file_memory;             /* a descriptor of file's memory; -1: it is our own */
	_Atomic uint64_t *lost;      /* relaxed: a count */
	int channel;                 /* where a new file's descriptor comes; -1: nowhere */
	_Atomic uint32_t generation; /* the one that fd is of; an exchange decides which thread opens a new one */
} out = {.sink = sinks,
         .stream = {.fd = STDERR_FILENO},
         .form = {.facility = 3},
         .connections = true,
         .channel = -1,
         .file = &own_file,
         .file_memory = -1,
         .lost = &own_lost};

/* ---- out ------------------------------------------------------------------------------------- */

static int put_stream(const struct text *t)
{
	return line_out_put(&out.stream, t->buf, t->len);
}

static int connect_path(int fd, const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof to.sun_path)
		return -ENAMETOOLONG;
	memcpy(to.sun_path, path, strlen(path) + 1);
	return connect(fd, (const struct sockaddr *)&to, sizeof to) < 0 ? -errno : 0;
}

static int put_datagram(const struct text *t)
{
	for (bool again = false;; again = true) {
		if (send(out.stream.fd, t->buf, t->len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return 0;
		int err = errno;
		/* The daemon was restarted: its socket is another one of the same name. A datagram socket may be
		 * connected anew. */
		if (again || (err != ECONNREFUSED && err != ENOTCONN && err != ECONNRESET && err != EPIPE &&
		              err != EDESTADDRREQ))
			return -err;
		if (connect_path(out.stream.fd, out.path) < 0)
			return -err;
	}
}

/* ---- opening --------------------------------------------------------------------------------- */

/* O_NONBLOCK: a fifo without a reader is an error here, and a full one loses lines. */
#define FILE_FLAGS (O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

/* The descriptor that waits in the channel, taken out or only looked at; -1: none. */
static int receive_fd(int from, int flags)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = {&byte, 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	int fd = -1;

	if (from < 0 || recvmsg(from, &m, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
		return -1;
	const struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	if (h != NULL && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS &&
	    h->cmsg_len == CMSG_LEN(sizeof fd))
		memcpy(&fd, CMSG_DATA(h), sizeof fd);
	return fd;
}

/* A reload has made the log file anew. This process may be inside a chroot or another user: it is handed the file. What
 * lies in the channel may be of the reload before: then the next line looks again. */
static void follow_file(void)
{
	uint32_t generation = atomic_load_explicit(&out.file->generation, memory_order_acquire);
	uint32_t before = atomic_exchange_explicit(&out.generation, generation, memory_order_relaxed);
	struct stat st;

	if (before == generation)
		return;
	int fd = receive_fd(out.channel, MSG_PEEK);
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == atomic_load_explicit(&out.file->dev, memory_order_relaxed) &&
	    st.st_ino == atomic_load_explicit(&out.file->ino, memory_order_relaxed))
		(void)dup3(fd, out.stream.fd, O_CLOEXEC);
	else if (out.channel >= 0)
		atomic_store_explicit(&out.generation, before, memory_order_relaxed);
	if (fd >= 0)
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

/* Another description of where the log goes. -errno: the one that there is must do. */
static int open_again(void)
{
	char path[32];
	int fd = -1, err = 0;

	if (out.sink == &sinks[0])
		return line_out_own(out.stream.fd);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", out.stream.fd);
	if (out.sink == SINK_FILE)
		fd = open(path, FILE_FLAGS);
	else
		err = open_socket(out.path, &fd);
	return err < 0 ? err : fd < 0 ? -errno : fd;
}

int log_channel_open(struct log_channel *c)
{
	int pair[2];

	*c = (struct log_channel){-1, -1};
	if (out.sink != SINK_FILE)
		return 0;
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	*c = (struct log_channel){.to = pair[0], .from = pair[1]};
	return 0;
}

void log_channel_close(struct log_channel *c)
{
	if (c->to >= 0)
		(void)close(c->to);
	if (c->from >= 0)
		(void)close(c->from);
	*c = (struct log_channel){-1, -1};
}

void log_channel_send(const struct log_channel *c)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct iovec iov = {(char[]){0}, 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	int old;

	if (c->to < 0 || out.sink != SINK_FILE)
		return;
	while ((old = receive_fd(c->from, 0)) >= 0)
		(void)close(old);
	int another = open_again(), fd = another >= 0 ? another : out.stream.fd;
	memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
	(void)sendmsg(c->to, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (another >= 0)
		(void)close(another);
}

/* Without shared memory each process counts what it loses itself. */
static void share_lost(void)
{
	void *at = mmap(NULL, sizeof *out.lost, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	out.lost = at != MAP_FAILED ? at : &own_lost;
	if (out.lost != &own_lost)
		atomic_store_explicit(out.lost, atomic_load_explicit(&own_lost, memory_order_relaxed),
		                      memory_order_relaxed);
}

/* What other processes have as well becomes this one's alone, or is only to be read. */
static void leave_shared(void)
{
	int fd = out.stream.fd > STDERR_FILENO ? open_again() : -1;
	if (fd >= 0) {
		(void)dup3(fd, out.stream.fd, O_CLOEXEC);
		(void)close(fd);
	}
	if (out.lost != &own_lost)
		(void)munmap(out.lost, sizeof *out.lost);
	share_lost();
	if (out.file_memory < 0)
		return;
	(void)mmap(out.file, sizeof *out.file, PROT_READ, MAP_SHARED | MAP_FIXED, out.file_memory, 0);
	(void)close(out.file_memory);
	out.file_memory = -1;
}

void log_follow(int from)
{
	out.channel = from;
	leave_shared();
}

int log_followed(void)
{
	return out.channel;
}

/* What the log has open is a description of our own for what fd is open for. */
static bool is_ours_of(int fd)
{
	struct stat a, b;

	return out.sink == &sinks[0] && out.stream.fd > STDERR_FILENO && fstat(fd, &a) == 0 &&
	       fstat(out.stream.fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int open_sink(const struct sink *sink, const char *path, int *fd)
{
	if (strcmp(sink->name, "stderr") == 0) {
		int own = line_out_own(STDERR_FILENO);
		*fd = own >= 0                    ? own
		      : is_ours_of(STDERR_FILENO) ? out.stream.fd /* no descriptors: what there is must do */
		                                  : STDERR_FILENO;
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
		               path, strerror(-err), advice);
	return err;
}

/* Without shared memory each process keeps its file. F_SEAL_FUTURE_WRITE: who has it to read cannot get it to write. */
static void share_file(void)
{
	int fd = memory_file("log", sizeof(struct file));
	void *at = fd >= 0 ? mmap(NULL, sizeof(struct file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;

	if (at == MAP_FAILED || fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0) {
		if (at != MAP_FAILED)
			(void)munmap(at, sizeof(struct file));
		if (fd >= 0)
			(void)close(fd);
		return;
	}
	out.file = at;
	out.file_memory = fd;
}

static void share(void)
{
	if (out.file == &own_file)
		share_file();
	if (out.lost == &own_lost)
		share_lost();
}

/* The number of the descriptor stays: other processes' tables are copies, but who asked log_fd() may remember it. */
static void take_fd(int fd)
{
	if (fd == out.stream.fd)
		return;
	if (out.stream.fd > STDERR_FILENO && fd > STDERR_FILENO && dup3(fd, out.stream.fd, O_CLOEXEC) >= 0) {
		(void)close(fd);
		return;
	}
	if (out.stream.fd > STDERR_FILENO)
		(void)close(out.stream.fd);
	out.stream.fd = fd;
}

static void publish_file(void)
{
	struct stat st;

	if (out.sink != SINK_FILE || fstat(out.stream.fd, &st) < 0)
		return;
	atomic_store_explicit(&out.file->dev, st.st_dev, memory_order_relaxed);
	atomic_store_explicit(&out.file->ino, st.st_ino, memory_order_relaxed);
	uint32_t next = atomic_load_explicit(&out.file->generation, memory_order_relaxed) + 1;
	atomic_store_explicit(&out.generation, next, memory_order_relaxed);
	atomic_store_explicit(&out.file->generation, next, memory_order_release);
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
		return failed(why, err, sink->name, path,
		              sink != SINK_FILE ? " (is the daemon running?)"
		              : err == -ENXIO   ? " (a FIFO that nobody reads)"
		                                : "");
	share();
	take_fd(fd);
	out.sink = sink;
	memcpy(out.path, path, strlen(path) + 1);
	out.form.format = c->log_format;
	out.form.facility = facility;
	out.connections = c->log_connections;
	atomic_store_explicit(&out.stream.by, 0, memory_order_relaxed);
	publish_file();
	return 0;
}

int log_leave_stderr(void)
{
	if (out.stream.fd != STDERR_FILENO)
		return 0;
	int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (fd < 0)
		return -errno;
	out.stream.fd = fd;
	return 0;
}

int log_fd(void)
{
	return out.stream.fd;
}

/* ---- in -------------------------------------------------------------------------------------- */

static int put(const struct log_line *e)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	out.sink->render(&t, &out.form, e);
	return out.sink->put(&t);
}

/* What was lost before is told before. Returns 0, or -errno: the line is lost. */
static int emit(const struct log_line *e)
{
	uint64_t lost = atomic_exchange_explicit(out.lost, 0, memory_order_relaxed);
	int err = 0;

	if (out.sink == SINK_FILE)
		follow_file();
	if (lost > 0) {
		char words[48];
		(void)snprintf(words, sizeof words, "%" PRIu64 " line%s lost", lost, lost == 1 ? " was" : "s were");
		err = put(&(struct log_line){.level = LOG_LEVEL_WARNING, .message = words});
		if (err == 0)
			lost = 0;
	}
	if (err == 0)
		err = put(e);
	if (err < 0)
		atomic_fetch_add_explicit(out.lost, lost + 1, memory_order_relaxed);
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
	(void)emit(&(struct log_line){.level = level, .service = service, .message = words});
	errno = saved;
}

void log_connection(const struct log_connection *l, _Atomic uint64_t *dropped)
{
	int saved = errno;

	if (!out.connections)
		return;
	int err = emit(&(struct log_line){.level = LOG_LEVEL_INFO, .service = l->service, .conn = l});
	if (err < 0 && dropped != NULL)
		atomic_fetch_add_explicit(dropped, 1, memory_order_relaxed);
	errno = saved;
}
