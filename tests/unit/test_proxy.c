/* test_proxy.c — the PROXY protocol's header as bytes: every vector (tests/vectors), what each bad one is called, and
 * that what is written is read again. */
#include "net_support.h"

#include <jansson.h>

#include "conn/proxy.h"

#define TLVS_MAX 64

/* ---- vectors --------------------------------------------------------------------------------- */

struct vector {
	const char *id;
	const json_t *expect;
	uint8_t bytes[8192];
	size_t n;
};

static size_t decode(const char *text, uint8_t *out)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t n = 0;
	unsigned bits = 0, have = 0;
	for (; *text != '\0' && *text != '='; text++) {
		const char *at = strchr(letters, *text);
		assert_non_null(at);
		bits = bits << 6 | (unsigned)(at - letters);
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[n++] = (uint8_t)(bits >> have);
		}
	}
	return n;
}

static void each_vector(void (*check)(const struct vector *v))
{
	json_error_t error;
	json_t *all = json_load_file(VECTORS "/proxy.json", 0, &error);
	static struct vector v;
	assert_non_null(all);
	assert_true(json_array_size(all) > 100);
	for (size_t i = 0; i < json_array_size(all); i++) {
		const json_t *one = json_array_get(all, i);
		v.id = json_string_value(json_object_get(one, "id"));
		v.expect = json_object_get(one, "expect");
		v.n = decode(json_string_value(json_object_get(one, "raw_b64")), v.bytes);
		check(&v);
	}
	json_decref(all);
}

static bool is(const struct vector *v, const char *what)
{
	return json_is_true(json_object_get(v->expect, what));
}

/* A copy of n bytes, no longer than they are, so that a sanitizer sees who reads past them. */
static ssize_t measure(const uint8_t *bytes, size_t n, const char **wrong)
{
	uint8_t *copy = malloc(n + 1);
	assert_non_null(copy);
	memcpy(copy + 1, bytes, n);
	ssize_t r = hark__proxy_measure(copy + 1, n, wrong);
	free(copy);
	return r;
}

/* As a stream gives it, a byte after the other: its length, or -EPROTO; 0: it never ends. */
static ssize_t grow(const struct vector *v, const char **wrong)
{
	for (size_t n = 0; n <= v->n; n++) {
		ssize_t whole = measure(v->bytes, n, wrong);
		if (whole < 0)
			return whole;
		if (whole > 0 && (size_t)whole <= n)
			return whole;
	}
	return 0;
}

/* "tcp://192.0.2.1:1" is "192.0.2.1:1" there, and an IPv4-mapped address is IPv4's. */
static void check_end(const struct vector *v, const char *which, const struct hark_endpoint *got)
{
	char text[HARK_ADDRESS_MAX];
	const json_t *paths = json_object_get(v->expect, "unix");
	const char *wanted = json_string_value(json_object_get(v->expect, which));
	assert_true(hark_endpoint_format(got, text, sizeof text) > 0);
	if (paths != NULL) {
		assert_memory_equal(text, "unix:", 5);
		assert_string_equal(text + 5, json_string_value(json_object_get(paths, which)));
	} else if (strncmp(wanted, "[::ffff:", 8) == 0) {
		assert_int_equal(strcspn(wanted + 8, "]"), strcspn(text + 6, ":"));
		assert_memory_equal(text + 6, wanted + 8, strcspn(wanted + 8, "]"));
	} else {
		assert_string_equal(strstr(text, "://") + 3, wanted);
	}
}

static void check_value(const struct hark_proxy_tlv *got, const char *wanted)
{
	assert_non_null(got);
	if (strncmp(wanted, "hex:", 4) != 0) {
		assert_int_equal(got->len, strlen(wanted));
		assert_memory_equal(got->value, wanted, got->len);
		return;
	}
	assert_int_equal(got->len * 2, strlen(wanted + 4));
	for (size_t i = 0; i < got->len; i++) {
		char two[3];
		(void)snprintf(two, sizeof two, "%02x", ((const uint8_t *)got->value)[i]);
		assert_memory_equal(wanted + 4 + 2 * i, two, 2);
	}
}

static const struct {
	const char *name;
	int type;
} names[] = {
	{"alpn", HARK_PROXY_ALPN},           {"authority", HARK_PROXY_AUTHORITY}, {"netns", HARK_PROXY_NETNS},
	{"unique_id", HARK_PROXY_UNIQUE_ID}, {"version", HARK_PROXY_SSL_VERSION}, {"cn", HARK_PROXY_SSL_CN},
	{"cipher", HARK_PROXY_SSL_CIPHER},   {"sig_alg", HARK_PROXY_SSL_SIG_ALG}, {"key_alg", HARK_PROXY_SSL_KEY_ALG},
};

/* What is in wanted is there; returns how many TLVs that are. */
static int check_tlvs(const json_t *wanted, const struct hark_proxy *p)
{
	const json_t *ssl = json_object_get(wanted, "ssl"), *other = json_object_get(wanted, "other"), *value;
	const char *type;
	int n = 0;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if ((value = json_object_get(wanted, names[i].name)) != NULL && json_is_string(value)) {
			check_value(hark_proxy_find(p, names[i].type), json_string_value(value));
			n++;
		}
	json_object_foreach((json_t *)other, type, value)
	{
		check_value(hark_proxy_find(p, (int)strtol(type, NULL, 16)), json_string_value(value));
		n++;
	}
	if (ssl == NULL)
		return n;
	assert_true(p->ssl);
	assert_int_equal(p->ssl_client, json_integer_value(json_object_get(ssl, "client")));
	assert_int_equal(p->ssl_verify, json_integer_value(json_object_get(ssl, "verify")));
	return n + check_tlvs(ssl, p);
}

static int known_and_other(const struct hark_proxy *p)
{
	int n = 0;
	for (int i = 0; i < p->n_tlvs; i++) /* an unknown part of SSL's is not listed there */
		n += p->tlvs[i].type < HARK_PROXY_SSL_GROUP || p->tlvs[i].type > 0x2f;
	return n;
}

static void check_vector(const struct vector *v)
{
	struct hark_proxy p;
	struct hark_proxy_tlv tlvs[TLVS_MAX];
	const char *wrong = NULL;
	ssize_t whole = grow(v, &wrong);
	int r = whole > 0 ? hark__proxy_parse(v->bytes, (size_t)whole, &p, tlvs, TLVS_MAX, &wrong) : -EPROTO;
	if ((r == 0) != is(v, "accept") || (whole == 0) != is(v, "incomplete"))
		fail_msg("%s: %d, length %zd, %s", v->id, r, whole, wrong != NULL ? wrong : "not wrong");
	if (r < 0) {
		assert_true(whole == 0 || strchr(wrong, ':') != NULL);
		return;
	}
	assert_int_equal(whole, json_integer_value(json_object_get(v->expect, "header_len")));
	assert_int_equal(whole, hark__proxy_measure(v->bytes, v->n, &wrong));
	bool is_unix = json_object_get(v->expect, "unix") != NULL;
	assert_int_equal(p.local, is(v, "local") && !is_unix);
	if (!p.local) {
		check_end(v, "source", &p.source);
		check_end(v, "destination", &p.destination);
	}
	const json_t *tlv = json_object_get(v->expect, "tlv");
	assert_int_equal(check_tlvs(tlv, &p), known_and_other(&p));
	assert_int_equal(p.ssl, json_object_get(tlv, "ssl") != NULL);
	assert_int_equal(p.checksum, json_object_get(tlv, "crc32c") != NULL);
}

static void every_vector_is_judged_as_the_specification_has_it(void **state)
{
	(void)state;
	each_vector(check_vector);
}

/* ---- what is bad ----------------------------------------------------------------------------- */

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define V4        "\300\0\2\1\300\0\2\2\0\1\0\2"
#define BYTES(s)  s, sizeof s - 1

static const struct bad {
	const char *bytes;
	size_t n;
	const char *word;
} bad[] = {
	{BYTES("GET / HTTP/1.0\r\n"), "signature"},
	{BYTES("PROXY\r\n"), "signature"},
	{BYTES("PROXY TCP4 1.2.3.4 1.2.3.5 1 2\n"), "line"},
	{BYTES("PROXY TCP4 1.2.3.4 1.2.3.5 1 2 \r\n"), "line"},
	{BYTES("PROXY TCP4 1.2.3.4 1.2.3.5 1\r\n"), "line"},
	{BYTES("PROXY TCP4 1.2.3.4 1.2.3.5 1 2\r\r\n"), "port"},
	{BYTES("PROXY TCP5 1.2.3.4 1.2.3.5 1 2\r\n"), "protocol"},
	{BYTES("PROXY \r\n"), "protocol"},
	{BYTES("PROXY UNKNOWN\0\r\n"), "protocol"},
	{BYTES("PROXY TCP4\r\n"), "line"},
	{BYTES("PROXY TCP4 1.2.3.04 1.2.3.5 1 2\r\n"), "address"},
	{BYTES("PROXY TCP6 ::1 ::00001 1 2\r\n"), "address"},
	{BYTES("PROXY TCP6 1:2:3:4::5:6:7:8 ::1 1 2\r\n"), "address"},
	{BYTES("PROXY TCP4 1.2.3.4 1.2.3.5 1 65536\r\n"), "port"},
	{BYTES("PROXY TCP4 1.2.3.4 1.2.3.5 00 1\r\n"), "port"},
	{BYTES(SIGNATURE "\x31"), "version"},
	{BYTES(SIGNATURE "\x2f"), "command"},
	{BYTES(SIGNATURE "\x21\x41"), "family"},
	{BYTES(SIGNATURE "\x21\x13"), "transport"},
	{BYTES(SIGNATURE "\x21\x11\0\x0b"), "length"},
	{BYTES(SIGNATURE "\x21\x11\0\x0d" V4 "\0"), "tlv"},
	{BYTES(SIGNATURE "\x21\x11\0\x10" V4 "\1\0\2x"), "tlv"},
	{BYTES(SIGNATURE "\x21\x11\0\x0f" V4 "\x20\0\0"), "ssl"},
	{BYTES(SIGNATURE "\x21\x11\0\x17" V4 "\x20\0\x8\1\0\0\0\0\x21\0\1"), "ssl"},
	{BYTES(SIGNATURE "\x21\x11\0\x13" V4 "\3\0\4\0\0\0\0"), "checksum"},
	{BYTES(SIGNATURE "\x21\x11\0\x10" V4 "\3\0\1\0"), "checksum"},
};

static void each_bad_header_has_a_word(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct hark_proxy p;
		const char *wrong = "";
		ssize_t whole = measure((const uint8_t *)bad[i].bytes, bad[i].n, &wrong);
		assert_true(whole < 0 || (size_t)whole == bad[i].n);
		if (whole > 0)
			assert_int_equal(hark__proxy_parse(bad[i].bytes, bad[i].n, &p, NULL, 0, &wrong), -EPROTO);
		if (strncmp(wrong, bad[i].word, strlen(bad[i].word)) != 0 || wrong[strlen(bad[i].word)] != ':')
			fail_msg("%zu: \"%s\" does not begin with %s", i, wrong, bad[i].word);
	}
}

static void an_outer_tlv_does_not_pass_for_one_of_ssl(void **state)
{
	static const char bytes[] = SIGNATURE "\x21\x11\0\x10" V4 "\x22\0\1x";
	struct hark_proxy p;
	const char *wrong;
	(void)state;
	assert_int_equal(hark__proxy_parse(bytes, sizeof bytes - 1, &p, NULL, 0, &wrong), 0);
	assert_int_equal(p.n_tlvs, 0);
	assert_false(p.ssl);
}

static void a_unique_id_has_at_most_128_bytes(void **state)
{
	static uint8_t id[129];
	uint8_t bytes[512];
	struct hark_proxy_tlv tlv = {HARK_PROXY_UNIQUE_ID, sizeof id, id};
	struct hark_proxy p = {.n_tlvs = 1, .tlvs = &tlv}, got;
	const char *wrong;
	(void)state;
	p.source = p.destination = (struct hark_endpoint){.type = SOCK_STREAM, .len = sizeof(struct sockaddr_in)};
	p.source.addr.ss_family = p.destination.addr.ss_family = AF_INET;
	ssize_t n = hark_proxy_format(&p, bytes, sizeof bytes);
	assert_int_equal(hark__proxy_parse(bytes, (size_t)n, &got, NULL, 0, &wrong), -EPROTO);
	tlv.len = 128;
	n = hark_proxy_format(&p, bytes, sizeof bytes);
	assert_int_equal(hark__proxy_parse(bytes, (size_t)n, &got, NULL, 0, &wrong), 0);
}

/* ---- what is written ------------------------------------------------------------------------- */

static unsigned seed = 20261128;

static unsigned any(unsigned below)
{
	return (unsigned)rand_r(&seed) % below;
}

static void any_bytes(void *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)to)[i] = (uint8_t)any(256);
}

static struct hark_endpoint any_end(int family, int type)
{
	struct hark_endpoint e = {.type = type};
	struct sockaddr_in *four = (struct sockaddr_in *)&e.addr;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&e.addr;
	struct sockaddr_un *un = (struct sockaddr_un *)&e.addr;
	e.addr.ss_family = (sa_family_t)family;
	if (family == AF_INET) {
		e.len = sizeof *four;
		any_bytes(&four->sin_addr, sizeof four->sin_addr);
		four->sin_port = (in_port_t)any(65536);
	} else if (family == AF_INET6) {
		e.len = sizeof *six;
		any_bytes(&six->sin6_addr, any(17)); /* many end in zeroes, some are ::, none is mapped */
		six->sin6_port = (in_port_t)any(65536);
	} else {
		e.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
		                    (size_t)snprintf(un->sun_path, sizeof un->sun_path, "/run/%u", any(1000)) + 1);
	}
	return e;
}

static void assert_same_end(const struct hark_endpoint *a, const struct hark_endpoint *b)
{
	assert_int_equal(a->type, b->type);
	assert_int_equal(a->len, b->len);
	assert_memory_equal(&a->addr, &b->addr, a->len);
}

/* Types that stay as they are. */
static const int types[] = {HARK_PROXY_ALPN,
                            HARK_PROXY_AUTHORITY,
                            HARK_PROXY_UNIQUE_ID,
                            HARK_PROXY_NETNS,
                            0xe0,
                            0x06,
                            0x00,
                            HARK_PROXY_SSL_VERSION,
                            HARK_PROXY_SSL_CN,
                            0x2f};

static void check_round(const struct hark_proxy *p, const uint8_t *bytes, size_t n)
{
	struct hark_proxy got;
	struct hark_proxy_tlv tlvs[TLVS_MAX];
	const char *wrong = "";
	if (hark__proxy_parse(bytes, n, &got, tlvs, TLVS_MAX, &wrong) < 0)
		fail_msg("written, and %s", wrong);
	assert_int_equal(got.version, p->version);
	assert_int_equal(got.local, p->local);
	if (p->local)
		return;
	assert_same_end(&got.source, &p->source);
	assert_same_end(&got.destination, &p->destination);
	if (p->version == 1)
		return;
	assert_int_equal(got.checksum, p->checksum);
	assert_int_equal(got.ssl, p->ssl);
	assert_int_equal(got.ssl_client, p->ssl ? p->ssl_client : 0);
	assert_int_equal(got.ssl_verify, p->ssl ? p->ssl_verify : 0);
	for (int i = 0; i < p->n_tlvs; i++) {
		bool inside = p->tlvs[i].type >= 0x21 && p->tlvs[i].type <= 0x2f;
		const struct hark_proxy_tlv *t = hark_proxy_find(&got, p->tlvs[i].type);
		assert_int_equal(t != NULL, p->ssl || !inside);
		if (t != NULL && t->len == p->tlvs[i].len)
			assert_memory_equal(t->value, hark_proxy_find(p, t->type)->value, t->len);
	}
}

static void what_is_written_is_read_again(void **state)
{
	static uint8_t bytes[HARK__PROXY_MAX], value[600];
	struct hark_proxy_tlv tlvs[8];
	(void)state;
	for (int round = 0; round < 5000; round++) {
		int family = (int[]){AF_INET, AF_INET6, AF_UNIX}[any(3)], version = 1 + (int)any(2);
		int type = version == 2 && any(4) == 0 ? SOCK_DGRAM : SOCK_STREAM;
		struct hark_proxy p = {
			.version = version,
			.local = any(8) == 0 || (version == 1 && family == AF_UNIX),
			.checksum = any(2),
			.ssl = any(2),
			.ssl_client = (uint8_t)any(8),
			.ssl_verify = any(2) * 0xfffffffeu,
			.tlvs = tlvs,
			.n_tlvs = (int)any(8),
			.source = any_end(family, type),
			.destination = any_end(family, type),
		};
		for (int i = 0; i < p.n_tlvs; i++) {
			any_bytes(value, sizeof value);
			tlvs[i] = (struct hark_proxy_tlv){types[any(sizeof types / sizeof *types)], any(129), value};
		}
		ssize_t n = hark_proxy_format(&p, bytes, sizeof bytes);
		assert_true(n > 0);
		check_round(&p, bytes, (size_t)n);
		assert_int_equal(hark_proxy_format(&p, bytes, (size_t)n), n);
		assert_int_equal(hark_proxy_format(&p, bytes, (size_t)n - 1), -ENOSPC);
		assert_int_equal(hark_proxy_format(&p, NULL, 0), -ENOSPC);
	}
}

static struct hark_endpoint endpoint(const char *address)
{
	struct hark_endpoint e;
	assert_int_equal(hark_resolve(address, &e, 1, 0), 1);
	return e;
}

static void assert_line(const char *source, const char *destination, const char *line)
{
	struct hark_proxy p = {.version = 1, .source = endpoint(source), .destination = endpoint(destination)};
	char buf[HARK__PROXY_LINE_MAX + 1];
	ssize_t n = hark_proxy_format(&p, buf, sizeof buf);
	assert_int_equal(n, strlen(line));
	buf[n] = '\0';
	assert_string_equal(buf, line);
}

static void version_1_has_words_for_tcp_alone(void **state)
{
	(void)state;
	assert_line("tcp://192.0.2.1:1", "tcp://192.0.2.2:65535", "PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\n");
	assert_line("tcp://[2001:db8::1]:1", "tcp://[::]:0", "PROXY TCP6 2001:db8::1 :: 1 0\r\n");
	assert_line("tcp://192.0.2.1:1", "tcp://[::1]:2", "PROXY TCP6 ::ffff:c000:201 ::1 1 2\r\n");
	assert_line("tcp://[::0102:0304]:1", "tcp://[::1]:2", "PROXY TCP6 ::102:304 ::1 1 2\r\n");
	assert_line("udp://192.0.2.1:1", "udp://192.0.2.2:2", "PROXY UNKNOWN\r\n");
	assert_line("unix:/run/x", "unix:/run/y", "PROXY UNKNOWN\r\n");
	assert_line("tcp://192.0.2.1:1", "unix:/run/y", "PROXY UNKNOWN\r\n");
}

static void without_two_addresses_of_a_kind_it_is_local(void **state)
{
	struct hark_proxy p = {.source = endpoint("tcp://192.0.2.1:1"), .destination = endpoint("unix:/run/y")};
	uint8_t buf[64];
	(void)state;
	assert_int_equal(hark_proxy_format(&p, buf, sizeof buf), 16);
	assert_memory_equal(buf, SIGNATURE "\x20\0\0\0", 16);
	p = (struct hark_proxy){0};
	assert_int_equal(hark_proxy_format(&p, buf, sizeof buf), 16);
	assert_memory_equal(buf, SIGNATURE "\x20\0\0\0", 16);
}

static void mixed_families_are_both_written_as_ipv6(void **state)
{
	struct hark_proxy p = {.source = endpoint("tcp://192.0.2.1:1"), .destination = endpoint("tcp://[::1]:2")}, got;
	uint8_t buf[64];
	const char *wrong;
	(void)state;
	assert_int_equal(hark_proxy_format(&p, buf, sizeof buf), 52);
	assert_int_equal(buf[13], 0x21);
	assert_int_equal(hark__proxy_parse(buf, 52, &got, NULL, 0, &wrong), 0);
	assert_same_end(&got.source, &p.source);
	assert_same_end(&got.destination, &p.destination);
}

static void what_cannot_be_written_is_refused(void **state)
{
	static char value[65535];
	struct hark_proxy_tlv tlv[2] = {{1, sizeof value, value}, {2, 0, ""}};
	struct hark_proxy p = {.n_tlvs = 1, .tlvs = tlv};
	static uint8_t buf[2 * HARK__PROXY_MAX];
	(void)state;
	assert_int_equal(hark_proxy_format(&p, buf, sizeof buf), -EMSGSIZE);
	tlv[0].len = 65532;
	assert_int_equal(hark_proxy_format(&p, buf, sizeof buf), HARK__PROXY_MAX);
	p.n_tlvs = 2;
	assert_int_equal(hark_proxy_format(&p, buf, sizeof buf), -EMSGSIZE);
	tlv[1].type = 256;
	assert_int_equal(hark_proxy_format(&p, buf, sizeof buf), -EINVAL);
	p = (struct hark_proxy){.version = 3};
	assert_int_equal(hark_proxy_format(&p, buf, sizeof buf), -EINVAL);
}

static void the_checksum_is_castagnoli(void **state)
{
	(void)state;
	assert_int_equal(hark__crc32c(0, "123456789", 9), 0xe3069283); /* the catalogue's check value */
	assert_int_equal(hark__crc32c(hark__crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
	assert_int_equal(hark__crc32c(0, "", 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_vector_is_judged_as_the_specification_has_it),
		cmocka_unit_test(each_bad_header_has_a_word),
		cmocka_unit_test(an_outer_tlv_does_not_pass_for_one_of_ssl),
		cmocka_unit_test(a_unique_id_has_at_most_128_bytes),
		cmocka_unit_test(what_is_written_is_read_again),
		cmocka_unit_test(version_1_has_words_for_tcp_alone),
		cmocka_unit_test(without_two_addresses_of_a_kind_it_is_local),
		cmocka_unit_test(mixed_families_are_both_written_as_ipv6),
		cmocka_unit_test(what_cannot_be_written_is_refused),
		cmocka_unit_test(the_checksum_is_castagnoli),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
