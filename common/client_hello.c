/* client_hello.c — see client_hello.h. RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2, RFC 6066 section 3, RFC 7301.
 *
 * A handshake message may lie in any number of records, and each of them in any number of segments. So it is walked
 * twice: first the records alone, until they hold the whole message; then the message, byte by byte, stepping over the
 * record headers. What is nobody's here, unknown extensions and values (RFC 8701, GREASE) among them, is passed over;
 * what the server would refuse, or read otherwise than we do, is refused. Pure: any thread. */
#include "client_hello.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define RECORD_HEADER  5
#define RECORD_MAX     16384 /* bytes of one, RFC 8446 section 5.1 */
#define HEADER         4     /* bytes of the message's own */
#define RECORD_IS      22    /* handshake */
#define MESSAGE_IS     1     /* client_hello */
#define EXTENSION_NAME 0
#define EXTENSION_ALPN 16
#define RANDOM_BYTES   32
#define SESSION_MAX    32
#define ENDED_TOO_SOON "a field reaches past its end"

/* Over the message's bytes, all of which are there. */
struct cursor {
	const uint8_t *at;
	size_t left; /* bytes of the record */
	size_t pos;  /* in the message */
	struct client_hello *out;
};

/* Handed out as -EPROTO. */
static int bad(struct cursor *c, const char *why)
{
	c->out->why = why;
	return -EPROTO;
}

static uint8_t next(struct cursor *c)
{
	while (c->left == 0) {
		c->left = (size_t)c->at[3] << 8 | c->at[4];
		c->at += RECORD_HEADER;
	}
	c->left--;
	c->pos++;
	return *c->at++;
}

/* A number of so many bytes, of what ends at end. -EPROTO. */
static int number(struct cursor *c, size_t end, int bytes, size_t *out)
{
	if (end - c->pos < (size_t)bytes)
		return bad(c, ENDED_TOO_SOON);
	*out = 0;
	for (int i = 0; i < bytes; i++)
		*out = *out << 8 | next(c);
	return 0;
}

/* A vector behind its length, of so many bytes: *after is its end. -EPROTO. */
static int vector(struct cursor *c, size_t end, int bytes, size_t *after)
{
	size_t n;
	int r = number(c, end, bytes, &n);
	if (r < 0)
		return r;
	if (end - c->pos < n)
		return bad(c, ENDED_TOO_SOON);
	*after = c->pos + n;
	return 0;
}

static void skip_to(struct cursor *c, size_t pos)
{
	while (c->pos < pos)
		(void)next(c);
}

/* ---- extensions ------------------------------------------------------------------------------- */

static bool is_of_name(uint8_t byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
	       byte == '-' || byte == '.' || byte == '_';
}

/* One host_name, as every server takes it: RFC 6066 has no other type, and wants no two of one type. */
static int read_name(struct cursor *c, size_t end)
{
	size_t list, type = 0, name, n = 0;
	int r = vector(c, end, 2, &list);
	if (r == 0)
		r = number(c, list, 1, &type);
	if (r == 0)
		r = vector(c, list, 2, &name);
	if (r < 0)
		return r;
	if (type != 0 || list != end || name != list)
		return bad(c, "a server name that is not one host name");
	if (name - c->pos > CLIENT_NAME_MAX || name == c->pos)
		return bad(c, "a server name that is empty or longer than 255 bytes");
	while (c->pos < name) {
		uint8_t byte = next(c);
		if (!is_of_name(byte))
			return bad(c, "a server name with a byte that no host's name has");
		c->out->name[n++] = (char)byte;
	}
	c->out->name[n] = '\0';
	return 0;
}

static int read_protocols(struct cursor *c, size_t end)
{
	struct client_hello *out = c->out;
	size_t list, one;
	int r = vector(c, end, 2, &list);
	if (r < 0)
		return r;
	if (list != end || list == c->pos)
		return bad(c, "a list of protocols that is empty or not as long as it says");
	while (c->pos < list) {
		r = vector(c, list, 1, &one);
		if (r < 0)
			return r;
		size_t n = one - c->pos;
		if (n == 0)
			return bad(c, "a protocol without a name");
		bool keep = n + 1 <= sizeof out->protocols - out->protocols_bytes;
		if (keep)
			out->protocols[out->protocols_bytes++] = (uint8_t)n;
		while (c->pos < one) {
			uint8_t byte = next(c);
			if (keep)
				out->protocols[out->protocols_bytes++] = byte;
		}
	}
	return 0;
}

static int read_extensions(struct cursor *c, size_t end)
{
	bool named = false, listed = false;
	size_t all, type, one;
	int r = vector(c, end, 2, &all);
	if (r < 0)
		return r;
	if (all != end)
		return bad(c, "bytes behind the extensions");
	while (c->pos < all && r == 0) {
		r = number(c, all, 2, &type);
		if (r == 0)
			r = vector(c, all, 2, &one);
		if (r < 0)
			return r;
		if ((type == EXTENSION_NAME && named) || (type == EXTENSION_ALPN && listed))
			return bad(c, "an extension that is there twice");
		named = named || type == EXTENSION_NAME;
		listed = listed || type == EXTENSION_ALPN;
		if (type == EXTENSION_NAME)
			r = read_name(c, one);
		else if (type == EXTENSION_ALPN)
			r = read_protocols(c, one);
		else
			skip_to(c, one);
	}
	return r;
}

/* ---- the message ------------------------------------------------------------------------------ */

static int read_message(struct cursor *c, size_t end)
{
	size_t version, session, ciphers, methods;
	bool plain = false;
	int r = number(c, end, 2, &version);
	if (r < 0)
		return r;
	if (version >> 8 != 3 || version == 0x300)
		return bad(c, "a version before TLS 1.0, or none of TLS");
	if (end - c->pos < RANDOM_BYTES)
		return bad(c, ENDED_TOO_SOON);
	skip_to(c, c->pos + RANDOM_BYTES);
	r = vector(c, end, 1, &session);
	if (r < 0)
		return r;
	if (session - c->pos > SESSION_MAX)
		return bad(c, "a session of more than 32 bytes");
	skip_to(c, session);
	r = vector(c, end, 2, &ciphers);
	if (r < 0)
		return r;
	if (ciphers == c->pos || (ciphers - c->pos) % 2 != 0)
		return bad(c, "cipher suites that are none, or half a one");
	skip_to(c, ciphers);
	r = vector(c, end, 1, &methods);
	if (r < 0)
		return r;
	while (c->pos < methods)
		plain = next(c) == 0 || plain;
	if (!plain)
		return bad(c, "no method of compression that is none");
	return c->pos < end ? read_extensions(c, end) : 0; /* before RFC 3546 there were none */
}

/* Walks the records until they hold the message. Its bytes on the wire, with *message, its length; 0: more is needed;
 * -EPROTO, -EMSGSIZE. */
static ssize_t walk_records(const uint8_t *data, size_t n, size_t *message, struct cursor *c)
{
	uint8_t header[HEADER];
	size_t at = 0, got = 0; /* on the wire; of the message */
	while (at < n) {
		const uint8_t *record = data + at;
		size_t there = n - at;
		if (record[0] != RECORD_IS)
			return bad(c, at == 0 ? "no TLS" : "another record in its midst");
		if (there > 1 && record[1] != 3)
			return bad(c, "a record of no version of TLS");
		if (there < RECORD_HEADER)
			break;
		size_t size = (size_t)record[3] << 8 | record[4];
		if (size == 0 || size > RECORD_MAX)
			return bad(c, "a record that is empty or longer than 16384 bytes");
		size_t body = there - RECORD_HEADER < size ? there - RECORD_HEADER : size;
		for (size_t i = 0; i < body && got + i < HEADER; i++)
			header[got + i] = record[RECORD_HEADER + i];
		if (got == 0 && body > 0 && header[0] != MESSAGE_IS)
			return bad(c, "no client hello");
		if (got + body >= HEADER) {
			*message = (size_t)header[1] << 16 | (size_t)header[2] << 8 | header[3];
			if (*message > CLIENT_HELLO_MAX - RECORD_HEADER - HEADER)
				break;
			if (got + body >= HEADER + *message)
				return (ssize_t)(at + RECORD_HEADER + HEADER + *message - got);
		}
		got += body;
		at += RECORD_HEADER + size;
		*message = 0;
	}
	if (n < CLIENT_HELLO_MAX && *message == 0)
		return 0;
	(void)bad(c, "longer than 16384 bytes");
	return -EMSGSIZE;
}

ssize_t client_hello_parse(const void *data, size_t n, struct client_hello *out)
{
	struct cursor c = {.at = data, .out = out};
	size_t message = 0;
	out->name[0] = '\0';
	out->protocols_bytes = 0;
	out->why = NULL;
	ssize_t wire = walk_records(data, n < CLIENT_HELLO_MAX ? n : CLIENT_HELLO_MAX, &message, &c);
	if (wire <= 0)
		return wire;
	skip_to(&c, HEADER);
	int r = read_message(&c, HEADER + message);
	if (r == 0)
		return wire;
	out->name[0] = '\0';
	out->protocols_bytes = 0;
	return r;
}
