/* hosts.c — see hosts.h.
 *
 * getaddrinfo(3) still gives the answers; this only says beforehand whether it will need a server, which may be silent.
 * A line that is longer than the buffer is not seen: its names are looked up as those of servers are. */
#include "conn/hosts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>

#include "base/sys.h"
#include "hark.h"

#define LINE_BYTES 4096
#define BLANKS     " \t\r\v\f"

typedef bool line_fn(char *line, void *arg); /* true: enough */

/* The whole lines among n bytes, without their comments. Returns how many bytes they took. */
static size_t lines_of(char *text, size_t n, line_fn *fn, void *arg, bool *enough)
{
	size_t done = 0;
	char *end;
	while (!*enough && (end = memchr(text + done, '\n', n - done)) != NULL) {
		char *line = text + done;
		*end = '\0';
		done = (size_t)(end - text) + 1;
		line[strcspn(line, "#")] = '\0';
		*enough = fn(line, arg);
	}
	return done;
}

/* 0, also where there is no such file; -EMFILE, -ENFILE. */
static int each_line(const char *path, line_fn *fn, void *arg)
{
	char text[LINE_BYTES];
	size_t held = 0;
	ssize_t n;
	bool enough = false, skipping = false;
	int fd = hark__sys.open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == EMFILE || errno == ENFILE ? -errno : 0;
	do {
		n = hark__sys.read(fd, text + held, sizeof text - 1 - held);
		if (n < 0 && errno == EINTR)
			continue;
		if (n > 0)
			held += (size_t)n;
		else if (held > 0)
			text[held++] = '\n'; /* the last line may have none */
		if (skipping) {
			char *end = memchr(text, '\n', held);
			size_t gone = end != NULL ? (size_t)(end - text) + 1 : held;
			skipping = end == NULL;
			memmove(text, text + gone, held -= gone);
		}
		size_t done = lines_of(text, held, fn, arg, &enough);
		memmove(text, text + done, held -= done);
		if (held == sizeof text - 1) {
			skipping = true;
			held = 0;
		}
	} while (n != 0 && (n > 0 || errno == EINTR) && !enough);
	(void)hark__sys.close(fd);
	return 0;
}

struct families {
	const char *name;
	int found;
};

static bool host_line(char *line, void *arg)
{
	struct families *f = arg;
	struct in6_addr any;
	char *rest, *word = strtok_r(line, BLANKS, &rest);
	int family;
	if (word == NULL)
		return false;
	word[strcspn(word, "%")] = '\0';
	family = inet_pton(AF_INET, word, &any) == 1    ? HARK__HOSTS_IPV4
	         : inet_pton(AF_INET6, word, &any) == 1 ? HARK__HOSTS_IPV6
	                                                : 0;
	while ((word = strtok_r(NULL, BLANKS, &rest)) != NULL)
		if (strcasecmp(word, f->name) == 0)
			f->found |= family;
	return f->found == (HARK__HOSTS_IPV4 | HARK__HOSTS_IPV6);
}

int hark__hosts_families(const char *name)
{
	struct families f = {.name = name};
	int r = each_line("/etc/hosts", host_line, &f);
	return r < 0 ? r : f.found;
}

/* Of the "hosts:" line: files first, or after what knows this machine's names alone. */
static bool switch_line(char *line, void *arg)
{
	static const char *const local[] = {"resolve", "mymachines", "myhostname", "db"};
	char *rest, *word = strtok_r(line, BLANKS, &rest);
	if (word == NULL || strcasecmp(word, "hosts:") != 0)
		return false;
	*(bool *)arg = false;
	while ((word = strtok_r(NULL, BLANKS, &rest)) != NULL) {
		bool known = word[0] == '[' || word[strlen(word) - 1] == ']'; /* "[!UNAVAIL=return]" */
		for (size_t i = 0; i < sizeof local / sizeof local[0]; i++)
			known = known || strcmp(word, local[i]) == 0;
		if (strcmp(word, "files") == 0)
			*(bool *)arg = true;
		if (!known)
			return true;
	}
	return true;
}

bool hark__hosts_come_first(void)
{
	bool first = true; /* the C library's default */
	(void)each_line("/etc/nsswitch.conf", switch_line, &first);
	return first;
}

bool hark__hosts_is_localhost(const char *name)
{
	static const char local[] = "localhost";
	size_t n = strlen(name);
	if (n > 0 && name[n - 1] == '.')
		n--;
	if (n < sizeof local - 1 || strncasecmp(name + n - (sizeof local - 1), local, sizeof local - 1) != 0)
		return false;
	return n == sizeof local - 1 || name[n - sizeof local] == '.';
}
