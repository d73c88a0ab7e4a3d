/* counters.c — the table of what services have done: one memfd, mapped by the supervisor, its workers and the next
 * generation.
 *
 * A next generation may be another version of hark: magic and size tell whether the layout is ours. The size is sealed,
 * or whoever else has the descriptor could shrink the file under our mapping (SIGBUS). Blocks are looked for up to the
 * highest one ever used: a look at the others would make memory of them.
 *
 * Thread: the supervisor's main thread, for blocks and slots; the counts themselves are anybody's. The mapping lives as
 * long as the process. */
#include "counters.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x3130746e756f6368) /* "hcount01": the last two count layouts of one size */
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

struct table {
	uint64_t magic;
	uint64_t bytes;        /* of the whole */
	_Atomic uint32_t high; /* blocks ever used. Relaxed: the supervisor alone moves it */
	struct counters services[COUNTERS_SERVICES_MAX];
};

const char *const counters_refusal_names[REFUSALS] = {
	[REFUSED_PER_SOURCE] = "max_per_source", [REFUSED_RATE_PER_SOURCE] = "rate_per_source"};

static_assert(offsetof(struct table, services) % 8 == 0, "counts are aligned");
static_assert(sizeof(struct table) < 2 * 1024 * 1024, "address space that each worker maps");

static struct table *table;
static uint32_t high; /* table->high as we know it: what lies there workers can write as well */

static int make(void)
{
	int fd = memfd_create("hark-counters", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, sizeof *table) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
		int r = -errno;
		(void)close(fd);
		return r;
	}
	return fd;
}

/* Before anything in it is touched. */
static int check_file(int fd)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 && errno == EBADF)
		return -EBADF;
	if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd, &st) < 0 || st.st_size != (off_t)sizeof *table)
		return -EPROTO;
	return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

int counters_open(int fd)
{
	bool fresh = fd < 0;
	int r = fresh ? make() : check_file(fd);
	if (r < 0)
		return r;
	fd = fresh ? r : fd;
	struct table *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	r = t == MAP_FAILED ? -errno : 0;
	if (r == 0 && fresh) {
		t->magic = MAGIC;
		t->bytes = sizeof *t;
	}
	uint32_t used = r == 0 ? atomic_load_explicit(&t->high, memory_order_relaxed) : 0;
	if (r == 0 && (t->magic != MAGIC || t->bytes != sizeof *t || used > COUNTERS_SERVICES_MAX)) {
		(void)munmap(t, sizeof *t);
		r = -EPROTO;
	}
	if (r < 0) {
		if (fresh)
			(void)close(fd);
		return r;
	}
	if (table != NULL)
		(void)munmap(table, sizeof *table);
	table = t;
	high = used;
	return fd;
}

static struct counters *find(const char *name)
{
	for (uint32_t i = 0; table != NULL && i < high; i++)
		if (strncmp(table->services[i].name, name, COUNTERS_NAME_MAX) == 0)
			return &table->services[i];
	return NULL;
}

struct counters *counters_of(const char *name)
{
	size_t len = strlen(name);
	if (table == NULL || len == 0 || len >= COUNTERS_NAME_MAX)
		return NULL;
	struct counters *c = find(name);
	if (c != NULL)
		return c;
	c = find("");
	if (c == NULL && high < COUNTERS_SERVICES_MAX) {
		c = &table->services[high++];
		atomic_store_explicit(&table->high, high, memory_order_relaxed);
	}
	if (c == NULL)
		return NULL;
	memset(c, 0, sizeof *c);
	memcpy(c->name, name, len);
	return c;
}

void counters_drop(const char *name)
{
	struct counters *c = name[0] != '\0' ? find(name) : NULL;
	for (int i = 0; c != NULL && i < COUNTERS_SLOTS; i++)
		if (atomic_load(&c->slots[i].pid) != 0)
			return;
	if (c != NULL)
		c->name[0] = '\0';
}

/* Its number is not known before the fork: until it is stored the slot names who took it. */
int counters_slot_take(struct counters *c)
{
	pid_t self = getpid();
	for (int i = 0; i < COUNTERS_SLOTS; i++) {
		pid_t nobody = 0; /* two generations may look at once */
		if (atomic_compare_exchange_strong(&c->slots[i].pid, &nobody, self)) {
			atomic_store_explicit(&c->slots[i].now, 0, memory_order_relaxed);
			return i;
		}
	}
	return -1;
}

void counters_slot_clear(struct counters *c, int slot)
{
	if (slot < 0 || slot >= COUNTERS_SLOTS)
		return;
	atomic_store_explicit(&c->slots[slot].now, 0, memory_order_relaxed);
	atomic_store(&c->slots[slot].pid, 0); /* last: from here on it may be taken */
}

uint32_t counters_now(const struct counters *c)
{
	uint32_t n = 0;
	for (int i = 0; i < COUNTERS_SLOTS; i++)
		n += atomic_load_explicit(&c->slots[i].now, memory_order_relaxed);
	return n;
}
