/* fuzz_text.c — what the tool makes of other people's bytes: durations from the command line, and a peer's bytes as
 * JSON and as printable text. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hark.h"
#include "options.h"
#include "text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

static void check_duration(const char *text)
{
	int64_t ns = -1;
	int r = duration_parse(text, &ns);
	must(r == 0 || r == -EINVAL || r == -ERANGE);
	must(r == 0 ? ns >= 0 && ns <= INT64_C(315360000) * HARK_S : ns == -1);
}

/* One JSON string: quotes at its ends alone, no control character, escapes whole, UTF-8 that is in order. */
static void check_json(const char *json, size_t n)
{
	must(n >= 2 && json[0] == '"' && json[n - 1] == '"');
	for (size_t i = 1; i < n - 1; i++) {
		unsigned char c = (unsigned char)json[i];
		must(c >= 0x20 && c != '"');
		if (c == '\\') {
			must(++i < n - 1);
			must(strchr("\"\\/bfnrtu", json[i]) != NULL);
			for (int k = 0; json[i] == 'u' && k < 4; k++)
				must(i + 1 + (size_t)k < n - 1 &&
				     strchr("0123456789abcdefABCDEF", json[i + 1 + k]) != NULL);
		} else if (c >= 0x80) {
			size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
			must(c >= 0xc2 && c <= 0xf4);
			for (; more > 0; more--)
				must(++i < n - 1 && ((unsigned char)json[i] & 0xc0) == 0x80);
		}
	}
}

/* No control character, neither of ASCII nor from U+0080 to U+009F. */
static void check_harmless(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i], next = (unsigned char)s[i + 1];
		must(c >= 0x20 && c != 0x7f && !(c == 0xc2 && next >= 0x80 && next < 0xa0));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = size < 1024 ? size : 1024;
	char *text = malloc(n + 1), *out = malloc(6 * n + 16); /* exactly enough, so that one more shows */
	must(text != NULL && out != NULL);
	memcpy(text, data, n);
	text[n] = '\0';
	check_duration(text);
	struct text t = {.buf = out, .cap = 6 * n + 16};
	text_add_json(&t, text, n);
	must(t.len < t.cap && out[t.len] == '\0');
	check_json(out, t.len);
	check_harmless(out, t.len);
	t = (struct text){.buf = out, .cap = 6 * n + 16};
	text_add(&t, "%s", text);
	text_scrub(&t);
	check_harmless(out, t.len);
	must(strlen(out) == t.len && t.len == strlen(text));
	t.len = 0;
	out[0] = '\0';
	text_add_printable(&t, text, n, "\t");
	must(strlen(out) == t.len);
	for (size_t i = 0; i < t.len; i++)
		must((out[i] >= 0x20 && out[i] < 0x7f) || out[i] == '\t');
	t = (struct text){.buf = out, .cap = n / 2 + 1}; /* too small: cut, never overrun */
	text_add_json(&t, text, n);
	text_add_printable(&t, text, n, "");
	must(t.len < t.cap && strlen(out) == t.len);
	free(text);
	free(out);
	return 0;
}
