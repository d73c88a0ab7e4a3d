/* fuzz_status.c — what hark status makes of an answer: any JSON that has services in it becomes text that is printable.
 */
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "status_view.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(void (*view)(const struct status_view *v, FILE *to), const struct status_view *v)
{
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);

	if (to == NULL)
		abort();
	view(v, to);
	(void)fclose(to);
	for (size_t i = 0; i < len; i++)
		if ((text[i] < ' ' && text[i] != '\n') || text[i] == 0x7f)
			abort();
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_error_t error;
	json_t *answer = json_loadb((const char *)data, size < 65536 ? size : 65536, 0, &error);
	struct status_view v = {.now = answer, .before = answer, .elapsed_s = 0.5, .rates = size % 2 == 0};

	if (answer != NULL && status_view_fits(answer)) {
		check(status_view_table, &v);
		check(status_view_service, &v);
	}
	json_decref(answer);
	return 0;
}
