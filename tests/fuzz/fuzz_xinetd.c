/* fuzz_xinetd.c — xinetd.conf: whatever a file holds, a document comes of it that can be printed and loaded.
 *
 * An input that includes others is left out: what is on this machine must not decide what is found. */
#include "reader_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[64];

	if (memmem(data, size, "include", 7) != NULL)
		return 0;
	int fd = memory_file(data, size, path);
	struct document *d = document_new();
	must(d != NULL && import_xinetd(d, path) == 0);
	check_document(d);
	document_free(d);
	(void)close(fd);
	return 0;
}
