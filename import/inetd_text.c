/* inetd_text.c — the lines and words of inetd.conf. Any thread, one at a time.
 *
 * A line that begins with a blank continues the one before, as in the BSDs. GNU's inetd knows no such thing and takes
 * an indented line as one of its own; so does this one where the words are a service's: the second a socket type, the
 * third a protocol.
 *
 * Quotes are NetBSD's, anywhere in a word. FreeBSD's and GNU's, which enclose whole words, are read alike by it.
 * Debian's inetd has none. */
#include "inetd.h"

#include <stdlib.h>
#include <string.h>

struct inetd_kept {
	struct inetd_kept *next;
	char bytes[];
};

char *inetd_keep(struct inetd *r, const char *s, size_t n)
{
	struct inetd_kept *k = malloc(sizeof *k + n + 1);

	if (k == NULL) {
		r->no_memory = true;
		return NULL;
	}
	memcpy(k->bytes, s, n);
	k->bytes[n] = '\0';
	k->next = r->kept;
	r->kept = k;
	return k->bytes;
}

/* The array's room is the next power of two. A former array stays with what is kept, so that an entry may be copied. */
void inetd_add(struct inetd *r, struct inetd_words *w, const char *word)
{
	if (word == NULL)
		return;
	if ((w->n & (w->n - 1)) == 0) {
		size_t room = w->n == 0 ? 4 : 2 * w->n;
		struct inetd_kept *k = malloc(sizeof *k + room * sizeof *w->word);
		if (k == NULL) {
			r->no_memory = true;
			return;
		}
		k->next = r->kept;
		r->kept = k;
		char **more = (char **)(void *)k->bytes;
		if (w->n > 0)
			memcpy(more, w->word, w->n * sizeof *more);
		w->word = more;
	}
	w->word[w->n++] = (char *)word;
}

/* Room for n bytes more, a blank and a NUL. The place for them, behind the blank; NULL: no memory. */
static char *make_room(struct inetd *r, struct inetd_line *l, size_t n)
{
	size_t room = l->n + n + 2;

	if (room > l->room) {
		room = room < 2 * l->room ? 2 * l->room : room;
		char *more = realloc(l->text, room);
		if (more == NULL) {
			r->no_memory = true;
			return NULL;
		}
		l->text = more;
		l->room = room;
	}
	if (l->n > 0)
		l->text[l->n++] = ' ';
	return l->text + l->n;
}

void inetd_append(struct inetd *r, struct inetd_line *l, const char *words)
{
	size_t n = strlen(words);
	char *at = make_room(r, l, n);

	if (at != NULL)
		memcpy(at, words, n + 1);
	l->n += at != NULL ? n : 0;
}

void inetd_append_quoted(struct inetd *r, struct inetd_line *l, const char *word)
{
	size_t most = 2 * strlen(word) + 3;
	char *at = make_room(r, l, most);

	if (at != NULL)
		l->n += strlen(document_quote(word, at, most));
}

char *inetd_finish(struct inetd *r, struct inetd_line *l)
{
	if (!r->no_memory)
		return l->text;
	free(l->text);
	return NULL;
}

void inetd_forget(struct inetd *r)
{
	for (struct inetd_kept *k = r->kept, *next; k != NULL; k = next) {
		next = k->next;
		free(k);
	}
	r->kept = NULL;
}

struct config_place inetd_place(const struct inetd_text *t)
{
	return (struct config_place){.file = t->file, .line = t->line};
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

bool inetd_at_end(const struct inetd_text *t)
{
	return t->at == t->end || *t->at == '\n';
}

void inetd_next_line(struct inetd_text *t)
{
	while (!inetd_at_end(t))
		t->at++;
	if (t->at < t->end) {
		t->at++;
		t->line++;
	}
}

/* The length of the word at p, which is moved past the blanks before it. */
static size_t peek_word(const char **p, const char *end)
{
	size_t n = 0;

	while (*p < end && is_blank(**p))
		(*p)++;
	while (*p + n < end && !is_blank((*p)[n]) && (*p)[n] != '\n')
		n++;
	return n;
}

static bool begins_with_one_of(const char *word, size_t n, const char *const names[])
{
	for (; *names != NULL; names++)
		if (n >= strlen(*names) && strncmp(word, *names, strlen(*names)) == 0)
			return true;
	return false;
}

/* Whether the text at p, a line's beginning, continues the line before. */
static bool continues(const char *p, const char *end)
{
	static const char *const types[] = {"stream", "dgram", "raw", "rdm", "seqpacket", NULL};
	static const char *const protocols[] = {"tcp", "udp", "unix", "rpc/", "faith/", NULL};

	if (p == end || !is_blank(*p) || *p == '\r')
		return false;
	size_t n = peek_word(&p, end);
	if (n == 0 || *p == '#')
		return false;
	p += n;
	n = peek_word(&p, end);
	if (!begins_with_one_of(p, n, types))
		return true;
	p += n;
	n = peek_word(&p, end);
	return !begins_with_one_of(p, n, protocols);
}

void inetd_skip(struct inetd_text *t, bool keys)
{
	for (;;) {
		while (t->at < t->end && is_blank(*t->at))
			t->at++;
		if (t->at == t->end)
			return;
		if (keys && *t->at == '#') {
			inetd_next_line(t);
			continue;
		}
		if (*t->at != '\n' || (!keys && !continues(t->at + 1, t->end)))
			return;
		t->at++;
		t->line++;
	}
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
	                              : -1;
}

/* The byte that the escape at t, after its backslash, stands for; -1: none. */
static int take_escape(struct inetd_text *t)
{
	static const char letters[] = "ntr\\'\"", bytes[] = "\n\t\r\\'\"";

	if (inetd_at_end(t))
		return -1;
	char c = *t->at++;
	const char *known = strchr(letters, c);
	if (known != NULL && c != '\0')
		return bytes[known - letters];
	if (c != 'x' || t->end - t->at < 2)
		return -1;
	int high = hex_digit(t->at[0]), low = hex_digit(t->at[1]);
	if (high < 0 || low < 0 || high + low == 0)
		return -1;
	t->at += 2;
	return high * 16 + low;
}

/* Whether the quote at p is closed on its line. */
static bool is_closed(const char *p, const char *end)
{
	char quote = *p++;

	for (; p < end && *p != '\n'; p++)
		if (*p == quote)
			return true;
	return false;
}

/* What the quotes at t hold, to out, and t past them. */
static size_t take_quoted(struct inetd *r, struct inetd_text *t, bool keys, char *out)
{
	char quote = *t->at++;
	size_t n = 0;

	while (!inetd_at_end(t) && *t->at != quote) {
		char c = *t->at++;
		if (keys && c == '\\') {
			int byte = take_escape(t);
			if (byte < 0 && !t->bad) {
				t->bad = true;
				document_error(
					r->document, inetd_place(t),
					"an escape that is none of \\n \\t \\r \\\\ \\' \\\" and \\x01 to \\xff");
			}
			c = byte < 0 ? '?' : (char)byte;
		}
		out[n++] = c;
	}
	if (!inetd_at_end(t)) {
		t->at++;
	} else if (!t->bad) {
		t->bad = true;
		document_error(r->document, inetd_place(t), "a quote (%c) that is not closed on its line", quote);
	}
	return n;
}

char *inetd_word(struct inetd *r, struct inetd_text *t, bool keys)
{
	size_t n = 0, room = 0;

	while (t->at + room < t->end && t->at[room] != '\n')
		room++;
	char *out = malloc(room + 1);
	if (out == NULL) {
		r->no_memory = true;
		return NULL;
	}
	while (!inetd_at_end(t) && !is_blank(*t->at) && !(keys && strchr(",;#", *t->at) != NULL)) {
		if ((*t->at == '"' || *t->at == '\'') && (keys || is_closed(t->at, t->end)))
			n += take_quoted(r, t, keys, out + n);
		else
			out[n++] = *t->at++;
	}
	char *kept = inetd_keep(r, out, n);
	free(out);
	return kept;
}
