/* test_client_hello.c — a ClientHello from hostile bytes: the name and the protocols of a good one, however it is cut
 * into records and segments; and a reason for each bad one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client_hello.h"

/* ---- making one ------------------------------------------------------------------------------- */

struct bytes {
	uint8_t at[2 * CLIENT_HELLO_MAX];
	size_t n;
};

static void put(struct bytes *b, const void *data, size_t n)
{
	assert_true(b->n + n <= sizeof b->at);
	memcpy(b->at + b->n, data, n);
	b->n += n;
}

static void put_number(struct bytes *b, int bytes, size_t value)
{
	while (bytes-- > 0)
		put(b, &(uint8_t){(uint8_t)(value >> 8 * bytes)}, 1);
}

/* A vector behind its length. */
static void put_vector(struct bytes *b, int bytes, const void *data, size_t n)
{
	put_number(b, bytes, n);
	put(b, data, n);
}

static void put_extension(struct bytes *b, size_t type, const void *data, size_t n)
{
	put_number(b, 2, type);
	put_vector(b, 2, data, n);
}

static void put_name(struct bytes *b, const char *name, size_t n)
{
	struct bytes list = {.n = 0}, all = {.n = 0};
	put_number(&list, 1, 0);
	put_vector(&list, 2, name, n);
	put_vector(&all, 2, list.at, list.n);
	put_extension(b, 0, all.at, all.n);
}

static void put_protocols(struct bytes *b, const char *words)
{
	struct bytes list = {.n = 0}, all = {.n = 0};
	for (size_t n; *words != '\0'; words += n + (words[n] == ' ')) {
		n = strcspn(words, " ");
		put_vector(&list, 1, words, n);
	}
	put_vector(&all, 2, list.at, list.n);
	put_extension(b, 16, all.at, all.n);
}

/* What a ClientHello may be wrong in, zero being right. */
struct form {
	size_t version, session, ciphers, methods;
	const struct bytes *extensions; /* NULL: not even their length */
	size_t longer;                  /* the extensions say so many bytes more than there are */
};

static void put_message(struct bytes *b, const struct form *f)
{
	static const uint8_t zeroes[512];
	struct bytes m = {.n = 0};
	put_number(&m, 2, f->version != 0 ? f->version : 0x303);
	put(&m, "0123456789abcdef0123456789ABCDEF", 32);
	put_vector(&m, 1, zeroes, f->session);
	put_vector(&m, 2, "\x1a\x1a\x13\x01\x13\x02", f->ciphers != 0 ? f->ciphers : 6);
	put_vector(&m, 1, "\1\0", f->methods != 0 ? f->methods : 2);
	if (f->extensions != NULL) {
		put_number(&m, 2, f->extensions->n + f->longer);
		put(&m, f->extensions->at, f->extensions->n);
	}
	put_number(b, 1, 1);
	put_vector(b, 3, m.at, m.n);
}

/* The message in records of so many bytes. */
static void put_records(struct bytes *b, const struct bytes *message, size_t each)
{
	for (size_t at = 0, n; at < message->n; at += n) {
		n = message->n - at < each ? message->n - at : each;
		put(b, "\x16\x03\x01", 3);
		put_vector(b, 2, message->at + at, n);
	}
}

static struct bytes hello_of(const struct form *f)
{
	struct bytes message = {.n = 0}, out = {.n = 0};
	put_message(&message, f);
	put_records(&out, &message, 16384);
	return out;
}

/* Unknown extensions (RFC 8701), the name, the protocols. */
static struct bytes extensions_of(const char *name, const char *protocols)
{
	struct bytes e = {.n = 0};
	put_extension(&e, 0x2a2a, "", 0);
	if (name != NULL)
		put_name(&e, name, strlen(name));
	put_extension(&e, 0xfafa, "\0", 1);
	if (protocols != NULL)
		put_protocols(&e, protocols);
	put_extension(&e, 43, "\6\x3a\x3a\3\4\3\3", 7);
	return e;
}

/* Parses a copy of just so many bytes, so that reading past them shows. */
static ssize_t parse(const uint8_t *data, size_t n, struct client_hello *out)
{
	uint8_t *copy = malloc(n > 0 ? n : 1);
	assert_non_null(copy);
	memcpy(copy, data, n);
	ssize_t r = client_hello_parse(copy, n, out);
	free(copy);
	return r;
}

static void expect_bad(const struct bytes *b, const char *why)
{
	struct client_hello h;
	ssize_t r = parse(b->at, b->n, &h);
	if (r != -EPROTO || strstr(h.why, why) == NULL)
		fail_msg("%zd, %s: not \"%s\"", r, r < 0 ? h.why : "taken", why);
	assert_string_equal(h.name, "");
	assert_int_equal(h.protocols_bytes, 0);
}

/* ---- good ones -------------------------------------------------------------------------------- */

static void the_name_and_the_protocols_are_found(void **state)
{
	(void)state;
	struct client_hello h;
	struct bytes e = extensions_of("www.Example.org", "h2 http/1.1"),
		     b = hello_of(&(struct form){.extensions = &e});
	assert_int_equal(parse(b.at, b.n, &h), b.n);
	assert_string_equal(h.name, "www.Example.org");
	assert_int_equal(h.protocols_bytes, 12);
	assert_memory_equal(h.protocols, "\2h2\10http/1.1", 12);
	put(&b, "more", 4); /* what follows is not looked at */
	assert_int_equal(parse(b.at, b.n, &h), b.n - 4);
}

static void one_without_a_name_asks_for_none(void **state)
{
	(void)state;
	struct client_hello h = {.name = "left"};
	struct bytes e = extensions_of(NULL, NULL), none = {.n = 0};
	const struct bytes *const all[] = {&e, &none, NULL};
	for (size_t i = 0; i < 3; i++) {
		struct bytes b = hello_of(&(struct form){.extensions = all[i]});
		assert_int_equal(parse(b.at, b.n, &h), b.n);
		assert_string_equal(h.name, "");
		assert_int_equal(h.protocols_bytes, 0);
	}
}

static void it_may_come_in_any_number_of_records_and_segments(void **state)
{
	(void)state;
	struct bytes e = extensions_of("a.example", "h2"), message = {.n = 0};
	put_message(&message, &(struct form){.extensions = &e, .session = 32});
	for (size_t each = 1; each <= message.n; each++) {
		struct client_hello h;
		struct bytes b = {.n = 0};
		put_records(&b, &message, each);
		for (size_t n = 0; n < b.n; n++)
			assert_int_equal(parse(b.at, n, &h), 0);
		assert_int_equal(parse(b.at, b.n, &h), b.n);
		assert_string_equal(h.name, "a.example");
		assert_memory_equal(h.protocols, "\2h2", h.protocols_bytes);
	}
}

static void one_of_post_quantum_keys_has_room_and_one_beyond_the_limit_has_not(void **state)
{
	(void)state;
	static uint8_t key[CLIENT_HELLO_MAX];
	struct client_hello h;
	struct bytes e = {.n = 0};
	put_extension(&e, 51, key, 12000);
	put_name(&e, "pq.example", 10);
	struct bytes b = hello_of(&(struct form){.extensions = &e});
	assert_int_equal(parse(b.at, b.n, &h), b.n);
	assert_string_equal(h.name, "pq.example");
	size_t room = CLIENT_HELLO_MAX - b.n;
	for (size_t more = room - 4; more <= room - 3; more++) {
		struct bytes longer = e;
		put_extension(&longer, 21, key, more);
		b = hello_of(&(struct form){.extensions = &longer});
		bool fits = b.n == CLIENT_HELLO_MAX;
		assert_int_equal(parse(b.at, b.n, &h), fits ? (ssize_t)b.n : -EMSGSIZE);
		assert_int_equal(parse(b.at, 9, &h), fits ? 0 : -EMSGSIZE); /* known as soon as it is said */
	}
}

static void records_so_small_that_it_grows_beyond_the_limit_are_too_long(void **state)
{
	(void)state;
	static uint8_t key[3000];
	struct client_hello h;
	struct bytes e = {.n = 0}, message = {.n = 0}, b = {.n = 0};
	put_extension(&e, 51, key, sizeof key);
	put_message(&message, &(struct form){.extensions = &e});
	put_records(&b, &message, 1);
	assert_true(b.n > CLIENT_HELLO_MAX);
	assert_int_equal(parse(b.at, CLIENT_HELLO_MAX - 1, &h), 0);
	assert_int_equal(parse(b.at, CLIENT_HELLO_MAX, &h), -EMSGSIZE);
	assert_int_equal(parse(b.at, b.n, &h), -EMSGSIZE);
}

static void of_many_protocols_those_that_have_room_are_kept_whole(void **state)
{
	(void)state;
	struct client_hello h;
	struct bytes list = {.n = 0}, all = {.n = 0}, e = {.n = 0};
	static const uint8_t long_one[200];
	put_vector(&list, 1, long_one, 200);
	put_vector(&list, 1, long_one, 100);
	put_vector(&list, 1, "h2", 2);
	put_vector(&all, 2, list.at, list.n);
	put_extension(&e, 16, all.at, all.n);
	struct bytes b = hello_of(&(struct form){.extensions = &e});
	assert_int_equal(parse(b.at, b.n, &h), b.n);
	assert_int_equal(h.protocols_bytes, 204);
	assert_memory_equal(h.protocols + 201, "\2h2", 3);
}

/* ---- bad ones --------------------------------------------------------------------------------- */

static void what_is_no_tls_is_known_by_its_first_bytes(void **state)
{
	(void)state;
	static const struct {
		const char *data;
		size_t n;
		const char *why;
	} all[] = {
		{"G", 1, "no TLS"},
		{"\x80", 1, "no TLS"}, /* SSL 2.0 */
		{"\x15", 1, "no TLS"}, /* an alert */
		{"\x16\2", 2, "no version"},
		{"\x16\3\1\0\0", 5, "empty"},
		{"\x16\3\1\x40\1", 5, "longer than 16384"},
		{"\x16\3\1\0\1\2", 6, "no client hello"},
		{"\x16\3\1\0\1\1\x15", 7, "another record"},
		{"\x16\3\1\0\1\1\x16\2", 8, "no version"},
	};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		struct client_hello h;
		struct bytes b = {.n = 0};
		put(&b, all[i].data, all[i].n);
		expect_bad(&b, all[i].why);
		assert_int_equal(parse(b.at, b.n - 1, &h), 0);
	}
}

static void each_bad_field_is_told(void **state)
{
	(void)state;
	struct bytes e = extensions_of("a.example", "h2");
	const struct {
		struct form f;
		const char *why;
	} all[] = {
		{{.version = 0x300}, "a version before"},
		{{.version = 0x203}, "a version before"},
		{{.version = 0x403}, "a version before"},
		{{.session = 33}, "a session of more"},
		{{.ciphers = 3}, "cipher suites"},
		{{.methods = 1}, "no method of compression"},
		{{.extensions = &e, .longer = 1}, "reaches past"},
	};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		struct bytes b = hello_of(&all[i].f);
		expect_bad(&b, all[i].why);
	}
}

static void a_message_cut_short_anywhere_reaches_past_its_end(void **state)
{
	(void)state;
	struct bytes e = extensions_of("a.example", "h2"), message = {.n = 0};
	put_message(&message, &(struct form){.extensions = &e, .session = 32});
	for (size_t n = 4; n < message.n; n++) {
		struct client_hello h;
		struct bytes shorter = message, b = {.n = 0};
		shorter.n = n;
		shorter.at[2] = (uint8_t)((n - 4) >> 8);
		shorter.at[3] = (uint8_t)(n - 4);
		put_records(&b, &shorter, 16384);
		bool without = n == message.n - e.n - 2; /* that is one without extensions */
		assert_int_equal(parse(b.at, b.n, &h), without ? (ssize_t)b.n : -EPROTO);
	}
}

static void bytes_behind_the_extensions_are_none_of_it(void **state)
{
	(void)state;
	struct bytes e = extensions_of("a.example", NULL), b = hello_of(&(struct form){.extensions = &e});
	put_number(&b, 1, 0);
	b.at[4]++;
	b.at[8]++;
	expect_bad(&b, "bytes behind the extensions");
}

static void each_bad_name_is_told(void **state)
{
	(void)state;
	char longest[257];
	memset(longest, 'a', sizeof longest);
	const struct {
		const char *name;
		size_t n;
		const char *why;
	} names[] = {
		{"", 0, "empty"},
		{longest, 256, "longer than 255"},
		{"a\0b", 3, "no host's name"},
		{"a b", 3, "no host's name"},
		{"a\xc3\xa9", 3, "no host's name"},
		{"a:443", 5, "no host's name"},
		{"*.a", 3, "no host's name"},
	};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct bytes e = {.n = 0};
		put_name(&e, names[i].name, names[i].n);
		struct bytes b = hello_of(&(struct form){.extensions = &e});
		expect_bad(&b, names[i].why);
	}
	struct client_hello h;
	struct bytes e = {.n = 0};
	put_name(&e, longest, 255);
	struct bytes b = hello_of(&(struct form){.extensions = &e});
	assert_int_equal(parse(b.at, b.n, &h), b.n);
	assert_int_equal(strlen(h.name), 255);
}

static void each_bad_extension_is_told(void **state)
{
	(void)state;
	static const struct {
		size_t type;
		const char *data;
		size_t n;
		const char *why;
	} all[] = {
		{0, "", 0, "reaches past"},
		{0, "\0\0", 2, "reaches past"},
		{0, "\0\5\0\0\2ab\0", 8, "not one host name"},
		{0, "\0\5\1\0\2ab", 7, "not one host name"},
		{0, "\0\12\0\0\2ab\0\0\2cd", 12, "not one host name"},
		{0, "\0\5\0\0\3ab", 7, "reaches past"},
		{16, "", 0, "reaches past"},
		{16, "\0\0", 2, "empty"},
		{16, "\0\3\2h2\0", 6, "not as long"},
		{16, "\0\1\0", 3, "without a name"},
		{16, "\0\3\3h2", 5, "reaches past"},
	};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		struct bytes e = {.n = 0};
		put_extension(&e, all[i].type, all[i].data, all[i].n);
		struct bytes b = hello_of(&(struct form){.extensions = &e});
		expect_bad(&b, all[i].why);
	}
	for (int twice = 0; twice < 2; twice++) {
		struct bytes e = extensions_of("a.example", "h2");
		if (twice == 0)
			put_name(&e, "b.example", 9);
		else
			put_protocols(&e, "h3");
		struct bytes b = hello_of(&(struct form){.extensions = &e});
		expect_bad(&b, "twice");
	}
}

/* A wrong bit anywhere is taken or refused, and nothing worse. */
static void no_wrong_bit_does_harm(void **state)
{
	(void)state;
	struct bytes e = extensions_of("a.example", "h2 http/1.1"), b = hello_of(&(struct form){.extensions = &e});
	for (size_t bit = 0; bit < 8 * b.n; bit++) {
		struct client_hello h;
		struct bytes wrong = b;
		wrong.at[bit / 8] ^= (uint8_t)(1 << bit % 8);
		ssize_t r = parse(wrong.at, wrong.n, &h);
		assert_true(r >= 0 ? (size_t)r <= wrong.n : (r == -EPROTO || r == -EMSGSIZE) && h.why != NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_name_and_the_protocols_are_found),
		cmocka_unit_test(one_without_a_name_asks_for_none),
		cmocka_unit_test(it_may_come_in_any_number_of_records_and_segments),
		cmocka_unit_test(one_of_post_quantum_keys_has_room_and_one_beyond_the_limit_has_not),
		cmocka_unit_test(records_so_small_that_it_grows_beyond_the_limit_are_too_long),
		cmocka_unit_test(of_many_protocols_those_that_have_room_are_kept_whole),
		cmocka_unit_test(what_is_no_tls_is_known_by_its_first_bytes),
		cmocka_unit_test(each_bad_field_is_told),
		cmocka_unit_test(a_message_cut_short_anywhere_reaches_past_its_end),
		cmocka_unit_test(bytes_behind_the_extensions_are_none_of_it),
		cmocka_unit_test(each_bad_name_is_told),
		cmocka_unit_test(each_bad_extension_is_told),
		cmocka_unit_test(no_wrong_bit_does_harm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
