/* fuzz_systemd.c — socket units, their services and drop-ins: whatever they hold, a document comes of it that can be
 * printed and loaded.
 *
 * The input is up to three files, a line "---" between them: x.socket, its service, and a drop-in of x.socket. They lie
 * in a directory of ours, made once: a link would be followed to another name, which is no unit's. */
#include "reader_fuzz.h"

#include <fcntl.h>
#include <sys/stat.h>

#define FILES 3

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char directory[] = "/tmp/hark-fuzz-systemd-XXXXXX";
static int files[FILES];

static int open_file(const char *name)
{
	char path[128];

	(void)snprintf(path, sizeof path, "%s/%s", directory, name);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	must(fd >= 0);
	return fd;
}

static void clean_up(void)
{
	static const char *const names[] = {"x.socket.d/a.conf", "x.socket.d", "x.socket",
	                                    "x.service",         "x@.service", ""};
	char path[128];

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		(void)snprintf(path, sizeof path, "%s/%s", directory, names[i]);
		(void)remove(path);
	}
}

static struct document *read_units(const uint8_t *data, size_t size)
{
	char path[128];

	for (int i = 0; i < FILES; i++) {
		const uint8_t *end = i < FILES - 1 ? memmem(data, size, "\n---\n", 5) : NULL;
		size_t n = end != NULL ? (size_t)(end - data) + 1 : size;
		must(ftruncate(files[i], 0) == 0 && pwrite(files[i], data, n, 0) == (ssize_t)n);
		size_t gone = end != NULL ? n + 4 : n;
		data += gone;
		size -= gone;
	}
	struct document *d = document_new();
	(void)snprintf(path, sizeof path, "%s/x.socket", directory);
	must(d != NULL && import_systemd(d, path) == 0);
	return d;
}

/* The reader finds what lies in the directory: else nothing would be tried. */
static void check_reading(void)
{
	static const char good[] =
		"[Socket]\nListenStream=1\n---\n[Service]\nExecStart=/bin/cat\nStandardInput=socket\n---\n"
		"[Socket]\nBacklog=3\n";
	struct document *d = read_units((const uint8_t *)good, sizeof good - 1);

	must(d->n == 1 && document_get(d->sections[0], "backlog") != NULL);
	document_free(d);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char path[128], other[128];
	(void)argc, (void)argv;
	must(mkdtemp(directory) != NULL && atexit(clean_up) == 0);
	(void)snprintf(path, sizeof path, "%s/x.socket.d", directory);
	must(mkdir(path, 0700) == 0);
	files[0] = open_file("x.socket");
	files[1] = open_file("x.service");
	files[2] = open_file("x.socket.d/a.conf");
	(void)snprintf(path, sizeof path, "%s/x.service", directory);
	(void)snprintf(other, sizeof other, "%s/x@.service", directory);
	must(link(path, other) == 0);
	check_reading();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct document *d = read_units(data, size);

	check_document(d);
	document_free(d);
	return 0;
}
