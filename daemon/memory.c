/* memory.c — see memory.h.
 *
 * The supervisor's mappings are marked MADV_DONTFORK: no child of it has one, a worker maps its own anew by the
 * descriptor and then closes the others. A next generation may be another version of hark: magic and size tell whether
 * the layout is ours. The size is sealed, or whoever else has the descriptor could shrink the file under our mapping
 * (SIGBUS). Tables that nobody has touched are holes.
 *
 * Thread: the supervisor's main thread; memory_attach() the worker's. */
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory_file.h"

#define MAGIC UINT64_C(0x3430746e756f6368) /* "hcount04": the last two count layouts of one size */

/* The file's beginning; the limits' state follows. */
struct head {
	uint64_t magic;
	uint64_t bytes; /* of the whole */
	uint64_t counters_bytes;
	_Alignas(64) struct counters counters;
	struct tickets tickets;
	struct certs_shown certs;
};

static struct memory *first;

static size_t size_of(bool tables)
{
	return sizeof(struct head) + limits_bytes(tables);
}

/* Before anything in it is touched. */
static bool is_ours(int fd)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && fstat(fd, &st) == 0 &&
	       st.st_size == (off_t)size_of(true) && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

static int map(struct memory *m, size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	m->at = at;
	m->mapped = bytes;
	m->counters = &((struct head *)at)->counters;
	m->certs = &((struct head *)at)->certs;
	m->tickets = &((struct head *)at)->tickets;
	m->limits = (struct limits_state *)((struct head *)at + 1);
	return 0;
}

static void let_go(struct memory *m)
{
	if (m->at != NULL)
		(void)munmap(m->at, m->mapped);
	if (m->fd >= 0)
		(void)close(m->fd);
	m->at = NULL;
	m->fd = -1;
}

/* The file of an older generation. */
static int adopt(struct memory *m, int fd)
{
	m->fd = fd;
	int r = is_ours(fd) ? map(m, size_of(false)) : -EPROTO;
	const struct head *h = m->at;
	if (r == 0 && (h->magic != MAGIC || h->bytes != size_of(true) || h->counters_bytes != sizeof h->counters))
		r = -EPROTO;
	if (r < 0)
		let_go(m);
	return r;
}

static int make(struct memory *m)
{
	m->fd = memory_file("hark-service", size_of(true));
	int r = m->fd < 0 ? m->fd : map(m, size_of(false));
	if (r == 0)
		r = limits_init(m->limits);
	if (r == 0)
		r = tickets_init(m->tickets);
	if (r < 0) {
		let_go(m);
		return r;
	}
	struct head *h = m->at;
	h->bytes = size_of(true);
	h->counters_bytes = sizeof h->counters;
	h->magic = MAGIC;
	return 0;
}

static struct memory *find(const char *name)
{
	struct memory *m = first;
	while (m != NULL && strcmp(m->name, name) != 0)
		m = m->next;
	return m;
}

int memory_open(const char *name, int fd, struct memory **out)
{
	struct memory *m = find(name);
	if (m != NULL) {
		if (fd >= 0)
			(void)close(fd);
		m->refs++;
		*out = m;
		return 0;
	}
	m = calloc(1, sizeof *m);
	char *copy = strdup(name);
	int r = m == NULL || copy == NULL ? -ENOMEM : 0;
	if (r < 0 && fd >= 0)
		(void)close(fd);
	if (r == 0)
		r = fd >= 0 ? adopt(m, fd) : -EPROTO;
	if (r == -EPROTO) /* none, or counted otherwise: totals begin anew */
		r = make(m);
	if (r == 0 && madvise(m->at, m->mapped, MADV_DONTFORK) < 0) {
		r = -errno;
		let_go(m);
	}
	if (r < 0) {
		free(copy);
		free(m);
		return r;
	}
	m->name = copy;
	m->refs = 1;
	m->next = first;
	first = m;
	*out = m;
	return 0;
}

void memory_release(struct memory *m)
{
	if (m == NULL || --m->refs > 0)
		return;
	struct memory **at = &first;
	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	let_go(m);
	free(m->name);
	free(m);
}

int memory_attach(struct memory *m, bool tables)
{
	return map(m, size_of(tables));
}

const struct memory *memory_first(void)
{
	return first;
}
