/* test_counters.c — the counters' table: found again by descriptor and by name, slots taken once, foreign files
 * refused. */
#include "net_support.h"

#include <sys/mman.h>

#include "../../daemon/counters.h"

static void a_block_is_found_again_by_its_name(void **state)
{
	char long_name[COUNTERS_NAME_MAX + 1] = "";
	(void)state;
	int fd = counters_open(-1);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	struct counters *a = counters_of("a"), *b = counters_of("b");
	assert_non_null(a);
	assert_non_null(b);
	assert_ptr_not_equal(a, b);
	assert_ptr_equal(counters_of("a"), a);
	a->accepted = 7;
	counters_drop("a");
	assert_ptr_equal(counters_of("c"), a); /* the first free one */
	assert_int_equal(a->accepted, 0);
	assert_ptr_equal(counters_of("b"), b);
	assert_null(counters_of(""));
	memset(long_name, 'x', COUNTERS_NAME_MAX);
	assert_null(counters_of(long_name));
	counters_drop("nobody");
	counters_drop("");
	(void)close(fd);
}

/* Its workers would go on to count in what is another service's by then. */
static void a_block_that_a_worker_still_has_is_not_given_away(void **state)
{
	(void)state;
	int fd = counters_open(-1);
	assert_true(fd >= 0);
	struct counters *a = counters_of("a");
	int slot = counters_slot_take(a);
	assert_true(slot >= 0);
	counters_drop("a");
	assert_ptr_not_equal(counters_of("b"), a);
	assert_ptr_equal(counters_of("a"), a);
	counters_slot_clear(a, slot);
	counters_drop("a");
	assert_ptr_equal(counters_of("c"), a);
	(void)close(fd);
}

static void all_blocks_can_be_had_and_no_more(void **state)
{
	char name[16];
	(void)state;
	int fd = counters_open(-1);
	assert_true(fd >= 0);
	for (int i = 0; i < COUNTERS_SERVICES_MAX; i++) {
		(void)snprintf(name, sizeof name, "s%d", i);
		assert_non_null(counters_of(name));
	}
	assert_null(counters_of("one more"));
	counters_drop("s500");
	assert_non_null(counters_of("one more"));
	(void)close(fd);
}

/* What an upgrade does: the descriptor survives exec, the mapping does not. */
static void another_generation_goes_on_with_the_counts(void **state)
{
	(void)state;
	int fd = counters_open(-1);
	assert_true(fd >= 0);
	atomic_store(&counters_of("echo")->accepted, 41);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int other = dup(fd); /* not close-on-exec, as it came through exec */
		CHECK_INT(counters_open(other), other);
		CHECK(fcntl(other, F_GETFD) & FD_CLOEXEC);
		atomic_fetch_add(&counters_of("echo")->accepted, 1);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(counters_of("echo")->accepted, 42);
	(void)close(fd);
}

static int file_of(off_t bytes, int seals)
{
	int fd = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void another_layout_is_refused_and_the_table_stays(void **state)
{
	struct stat st;
	(void)state;
	int fd = counters_open(-1);
	assert_true(fd >= 0);
	struct counters *mine = counters_of("mine");
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(ftruncate(fd, 0), -1); /* nobody shrinks it under us */
	assert_int_equal(errno, EPERM);
	int bad[] = {
		file_of(st.st_size - 8, F_SEAL_SHRINK | F_SEAL_GROW), /* another size */
		file_of(st.st_size, F_SEAL_SHRINK | F_SEAL_GROW),     /* no magic */
		file_of(st.st_size, F_SEAL_GROW),                     /* may shrink */
		open("/dev/null", O_RDWR | O_CLOEXEC),
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(counters_open(bad[i]), -EPROTO);
		assert_int_equal(close(bad[i]), 0); /* still the caller's */
	}
	assert_int_equal(counters_open(bad[0]), -EBADF);
	assert_ptr_equal(counters_of("mine"), mine);
	(void)close(fd);
}

/* Each worker has the table mapped to write to, and one of them may have been taken over. */
static void what_a_worker_writes_there_leads_nowhere(void **state)
{
	struct stat st;
	(void)state;
	int fd = counters_open(-1);
	assert_true(fd >= 0);
	struct counters *a = counters_of("a");
	assert_int_equal(fstat(fd, &st), 0);
	unsigned char *whole = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(whole, MAP_FAILED);
	memset(whole, 0xff, (size_t)st.st_size);
	struct counters *b = counters_of("b");
	assert_true(b > a && (unsigned char *)(b + 1) <= (unsigned char *)a + st.st_size);
	assert_ptr_not_equal(counters_of("c"), b);
	counters_drop("b");
	(void)counters_slot_take(a);
	(void)munmap(whole, (size_t)st.st_size);
	(void)close(fd);
}

static void slots_are_taken_once_and_given_back(void **state)
{
	(void)state;
	int fd = counters_open(-1);
	assert_true(fd >= 0);
	struct counters *c = counters_of("slots");
	for (int i = 0; i < COUNTERS_SLOTS; i++)
		assert_int_equal(counters_slot_take(c), i);
	assert_int_equal(counters_slot_take(c), -1);
	atomic_store(&c->slots[3].now, 5);
	atomic_store(&c->slots[9].now, 2);
	assert_int_equal(counters_now(c), 7);
	counters_slot_clear(c, 3);
	assert_int_equal(counters_now(c), 2);
	assert_int_equal(counters_slot_take(c), 3);
	counters_slot_clear(c, -1);
	counters_slot_clear(c, COUNTERS_SLOTS);
	(void)close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_block_is_found_again_by_its_name),
		cmocka_unit_test(a_block_that_a_worker_still_has_is_not_given_away),
		cmocka_unit_test(all_blocks_can_be_had_and_no_more),
		cmocka_unit_test(another_generation_goes_on_with_the_counts),
		cmocka_unit_test(another_layout_is_refused_and_the_table_stays),
		cmocka_unit_test(what_a_worker_writes_there_leads_nowhere),
		cmocka_unit_test(slots_are_taken_once_and_given_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
