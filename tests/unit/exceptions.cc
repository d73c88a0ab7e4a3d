// exceptions.cc — C++ on fibers: what one has caught is its own while others run. Exit status 0: it is.
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include "hark.h"

static int bad;

static void check(bool holds, const char *what)
{
	if (!holds) {
		std::fprintf(stderr, "%s does not hold\n", what);
		bad = 1;
	}
}

struct thrower {
	const char *mine;
	int turns;
};

// Suspends in the handler, while others throw, catch and leave theirs, and then throws its own on.
static void rethrows(void *arg)
{
	const thrower *t = static_cast<const thrower *>(arg);
	for (int i = 0; i < 100; i++) {
		std::string got;
		try {
			try {
				throw std::runtime_error(t->mine);
			} catch (const std::runtime_error &) {
				for (int k = 0; k < t->turns; k++)
					hark_yield();
				check(std::uncaught_exceptions() == 0, "nothing in flight in a handler");
				throw;
			}
		} catch (const std::exception &e) {
			got = e.what();
		}
		check(got == t->mine, "throw; throws what this fiber has caught");
		check(std::current_exception() == nullptr, "nothing caught after the handler");
		hark_yield();
	}
}

// Suspends while an exception is in flight: in a destructor.
struct suspends {
	~suspends()
	{
		check(std::uncaught_exceptions() == 1, "one in flight in a destructor");
		hark_yield();
		check(std::uncaught_exceptions() == 1, "one in flight in a destructor that has suspended");
	}
};

static void unwinds(void *)
{
	for (int i = 0; i < 100; i++) {
		check(std::uncaught_exceptions() == 0, "none in flight where none was thrown");
		try {
			suspends s;
			throw 1;
		} catch (int) {
			hark_yield();
		}
	}
}

static void throws(void *)
{
	throw 1;
}

// What nobody catches ends the program as C++ has it, not by running off the fiber's stack.
static void uncaught()
{
	int status = 0;
	pid_t pid = fork();
	if (pid == 0) {
		hark_scope s;
		std::set_terminate([] { _exit(7); });
		hark_scope_open(&s);
		check(hark_go(&s, "throws", throws, nullptr) == 0, "hark_go");
		hark_scope_close(&s);
		_exit(0);
	}
	check(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7,
	      "std::terminate is called for what leaves a fiber's function");
}

int main()
{
	thrower a = {"a", 1}, b = {"b", 2}, c = {"c", 5};
	hark_scope s;
	uncaught();
	try {
		throw std::logic_error("main's");
	} catch (const std::logic_error &) {
		hark_scope_open(&s);
		check(hark_go(&s, "a", rethrows, &a) == 0, "hark_go");
		check(hark_go(&s, "b", rethrows, &b) == 0, "hark_go");
		check(hark_go(&s, "c", rethrows, &c) == 0, "hark_go");
		check(hark_go(&s, "unwinds", unwinds, nullptr) == 0, "hark_go");
		check(hark_go(&s, "unwinds", unwinds, nullptr) == 0, "hark_go");
		check(hark_join(&s, HARK_FOREVER) == 0, "hark_join");
		hark_scope_close(&s);
		try {
			throw;
		} catch (const std::exception &e) {
			check(std::string(e.what()) == "main's", "what main has caught");
		}
	}
	return bad;
}
