/* reading.c — see reading.h. */
#include "reading.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* 0 or -errno. O_NONBLOCK: opening a FIFO that nobody writes to would wait. */
static int open_regular(const char *file, int *out)
{
	struct stat st;
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return -errno;
	int rc = fstat(fd, &st) < 0 ? -errno : S_ISDIR(st.st_mode) ? -EISDIR : S_ISREG(st.st_mode) ? 0 : -EINVAL;
	if (rc < 0)
		(void)close(fd);
	else
		*out = fd;
	return rc;
}

/* What st_size says is not asked: of files in /proc it is 0. */
int reading_all(int fd, size_t max, char **text, size_t *len)
{
	size_t cap = 0, n = 0;
	char *buf = NULL;

	for (;;) {
		if (n + 1 >= cap) {
			cap = cap == 0 ? 4096 : 2 * cap;
			char *more = realloc(buf, cap);
			if (more == NULL)
				goto no_memory;
			buf = more;
		}
		ssize_t got = read(fd, buf + n, cap - n - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || n + (size_t)got > max) {
			int rc = got < 0 ? -errno : -EFBIG;
			free(buf);
			return rc;
		}
		if (got == 0)
			break;
		n += (size_t)got;
	}
	buf[n] = '\0';
	*text = buf;
	*len = n;
	return 0;
no_memory:
	free(buf);
	return -ENOMEM;
}

char *reading_file(struct document *d, struct config_place place, const char *file, size_t max, size_t *len)
{
	char *text = NULL;
	int fd = -1;
	int rc = open_regular(file, &fd);

	if (rc == 0) {
		rc = reading_all(fd, max, &text, len);
		(void)close(fd);
	}
	/* Where the file is the one that is read, and not one that a line of another names, place has its name already.
	 */
	const char *name = place.line > 0 ? file : "", *colon = place.line > 0 ? ": " : "";
	if (rc == -ENOMEM) {
		d->broken = true;
	} else if (rc == -EFBIG) {
		document_error(d, place, "%s%slonger than %zu bytes", name, colon, max);
	} else if (rc == -EINVAL) {
		document_error(d, place, "%s%snot a regular file", name, colon);
	} else if (rc < 0) {
		document_error(d, place, "%s%s%s", name, colon, strerror(-rc));
	} else if (memchr(text, '\0', *len) != NULL) {
		document_error(d, place, "%s%sa NUL byte: not a text", name, colon);
		free(text);
		text = NULL;
	}
	return text;
}

/* Room grows by powers of two, so that no capacity need be kept; one more than that for the NULL at the end. */
void wordlist_add(struct document *d, struct config_words *w, const char *word, size_t len)
{
	char *copy = strndup(word, len);
	char **more = w->word;

	if ((w->n & (w->n - 1)) == 0)
		more = reallocarray(w->word, (w->n == 0 ? 1 : 2 * w->n) + 1, sizeof *more);
	if (more != NULL)
		w->word = more;
	if (copy == NULL || more == NULL) {
		free(copy);
		d->broken = true;
		return;
	}
	more[w->n++] = copy;
	more[w->n] = NULL;
}

static size_t find(const struct config_words *w, const char *word)
{
	size_t i = 0;

	while (i < w->n && strcasecmp(w->word[i], word) != 0)
		i++;
	return i;
}

bool wordlist_has(const struct config_words *w, const char *word)
{
	return find(w, word) < w->n;
}

void wordlist_remove(struct config_words *w, const char *word)
{
	for (size_t i; (i = find(w, word)) < w->n;) {
		free(w->word[i]);
		memmove(w->word + i, w->word + i + 1, (w->n - i) * sizeof *w->word);
		w->n--; /* wordlist_add() now assumes less room than there is */
	}
}

void wordlist_clear(struct config_words *w)
{
	for (size_t i = 0; i < w->n; i++)
		free(w->word[i]);
	free(w->word);
	*w = (struct config_words){0};
}

void wordlist_copy(struct document *d, struct config_words *to, const struct config_words *from)
{
	wordlist_clear(to);
	for (size_t i = 0; i < from->n; i++)
		wordlist_add(d, to, from->word[i], strlen(from->word[i]));
}

char *wordlist_join(struct document *d, const struct config_words *w, size_t i)
{
	size_t cap = 1, at = 0;

	for (size_t k = i; k < w->n; k++)
		cap += 2 * strlen(w->word[k]) + 4;
	char *line = malloc(cap);
	if (line == NULL) {
		d->broken = true;
		return NULL;
	}
	line[0] = '\0';
	for (size_t k = i; k < w->n; k++) {
		if (k > i)
			line[at++] = ' ';
		(void)document_quote(w->word[k], line + at, cap - at);
		at += strlen(line + at);
	}
	return line;
}

/* Whether a later word sets the variable whose name is the first n bytes of the i-th. */
static bool is_set_again(const struct config_words *w, size_t i, size_t n)
{
	for (size_t k = i + 1; k < w->n; k++)
		if (n > 0 && w->word[i][n] == '=' && strncmp(w->word[k], w->word[i], n + 1) == 0)
			return true;
	return false;
}

void reading_environment(struct document *d, struct document_section *s, struct config_place place,
                         const struct config_words *w, bool names, const char *before)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
	struct config_words good = {0};

	for (size_t i = 0; i < w->n; i++) {
		size_t n = strspn(w->word[i], letters);
		if (!names && is_set_again(w, i, n))
			continue;
		if (n > 0 && n < 256 && w->word[i][n] == (names ? '\0' : '='))
			wordlist_add(d, &good, w->word[i], strlen(w->word[i]));
		else
			document_drop(d, s, place, "%s = %.64s: not a name of letters, digits and _%s",
			              names ? "pass_env" : "env", w->word[i], names ? "" : ", = and a value");
	}
	char *line = wordlist_join(d, &good, 0);
	if (line != NULL && good.n > 0)
		document_set(d, s, place, names ? "pass_env" : "env", "%s%s", before, line);
	free(line);
	wordlist_clear(&good);
}
