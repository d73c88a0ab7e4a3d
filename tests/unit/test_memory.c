/* test_memory.c — a service's memory: found again by its name and by its descriptor, in no child of the supervisor but
 * who asks for it, and never another layout. */
#include "net_support.h"

#include <signal.h>
#include <sys/mman.h>

#include "../../daemon/memory.h"

static struct memory *opened(const char *name, int fd)
{
	struct memory *m = NULL;
	assert_int_equal(memory_open(name, fd, &m), 0);
	assert_non_null(m);
	return m;
}

static void a_service_finds_its_memory_again_by_its_name(void **state)
{
	(void)state;
	struct memory *a = opened("a", -1), *b = opened("b", -1);
	assert_true(fcntl(a->fd, F_GETFD) & FD_CLOEXEC);
	assert_ptr_not_equal(a, b);
	counters_add(a->counters, COUNT_ACCEPTED, 7);
	assert_ptr_equal(opened("a", -1), a);
	memory_release(a);
	assert_int_equal(counters_read(a->counters, COUNT_ACCEPTED), 7);
	assert_int_equal(counters_read(b->counters, COUNT_ACCEPTED), 0);
	memory_release(a);
	a = opened("a", -1); /* the last one let go: begun anew */
	assert_int_equal(counters_read(a->counters, COUNT_ACCEPTED), 0);
	memory_release(a);
	memory_release(b);
	memory_release(NULL);
	assert_null(memory_first());
}

/* What an upgrade does: the descriptor survives exec, the mapping does not. */
static void another_generation_goes_on_with_counts_and_limits(void **state)
{
	int status;
	(void)state;
	struct memory *m = opened("echo", -1);
	counters_add(m->counters, COUNT_ACCEPTED, 41);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct memory *next = NULL;
		int fd = dup(m->fd); /* not close-on-exec, as it came through exec */
		memory_release(m);
		CHECK_INT(memory_open("echo", fd, &next), 0);
		CHECK_INT(next->fd, fd);
		CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		counters_add(next->counters, COUNT_ACCEPTED, 1);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(counters_read(m->counters, COUNT_ACCEPTED), 42);
	memory_release(m);
}

static int mappings(void)
{
	char line[512];
	int n = 0;
	FILE *f = fopen("/proc/self/maps", "re");
	CHECK(f != NULL);
	while (fgets(line, sizeof line, f) != NULL)
		n += strstr(line, "memfd:hark-service") != NULL;
	(void)fclose(f);
	return n;
}

/* A worker has its own, asked for, and nothing else; so has whatever the supervisor forks. */
static void a_forked_child_has_only_what_it_attaches(void **state)
{
	int status;
	(void)state;
	struct memory *own = opened("own", -1), *other = opened("other", -1);
	assert_int_equal(mappings(), 2);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		CHECK_INT(mappings(), 0);
		CHECK_INT(memory_attach(own, true), 0);
		counters_add(own->counters, COUNT_CLOSED, 3);
		CHECK_INT(mappings(), 1); /* perhaps where the other was */
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(counters_read(own->counters, COUNT_CLOSED), 3);
	memory_release(own);
	memory_release(other);
}

static int file_of(off_t bytes, int seals)
{
	int fd = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void another_layout_is_not_taken_and_counts_begin_anew(void **state)
{
	struct stat st;
	(void)state;
	struct memory *m = opened("mine", -1);
	assert_int_equal(fstat(m->fd, &st), 0);
	assert_int_equal(ftruncate(m->fd, 0), -1); /* nobody shrinks it under us */
	assert_int_equal(errno, EPERM);
	memory_release(m);
	int before = open_descriptors(),
	    bad[] = {
		    file_of(st.st_size - 8, F_SEAL_SHRINK | F_SEAL_GROW), /* another size */
		    file_of(st.st_size, F_SEAL_SHRINK | F_SEAL_GROW),     /* no magic */
		    file_of(st.st_size, F_SEAL_GROW),                     /* may shrink */
		    open("/dev/null", O_RDWR | O_CLOEXEC),
	    };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		m = opened("mine", bad[i]);
		assert_int_equal(counters_read(m->counters, COUNT_ACCEPTED), 0);
		memory_release(m);
	}
	assert_int_equal(open_descriptors(), before); /* they were closed */
	/* A version with one counter more, whose whole is as large. */
	m = opened("mine", -1);
	counters_add(m->counters, COUNT_ACCEPTED, 7);
	uint64_t bytes = sizeof *m->counters + 8;
	int fd = dup(m->fd);
	assert_int_equal(pwrite(fd, &bytes, sizeof bytes, 16), sizeof bytes);
	memory_release(m);
	m = opened("mine", fd);
	assert_int_equal(counters_read(m->counters, COUNT_ACCEPTED), 0);
	memory_release(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_service_finds_its_memory_again_by_its_name),
		cmocka_unit_test(another_generation_goes_on_with_counts_and_limits),
		cmocka_unit_test(a_forked_child_has_only_what_it_attaches),
		cmocka_unit_test(another_layout_is_not_taken_and_counts_begin_anew),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
