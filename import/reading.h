/* reading.h — what the readers of foreign formats share: a file read whole, and lists of words that grow.
 *
 * Memory that cannot be had breaks the document (document.h), which tells once at the end: so nothing here returns
 * -ENOMEM. Any thread, one at a time. */
#ifndef READING_H
#define READING_H

#include <stddef.h>
#include <stdint.h>

#include "document.h"

#define READING_FILE_MAX (1 << 20) /* bytes; no configuration in the wild is a tenth of it */

/* The whole of a regular file as a string, the caller's to free; *len without its NUL. NULL, with the error in d at
 * place: it cannot be read, is no regular file (which might block, or never end), is longer than max, or has a NUL. */
char *reading_file(struct document *d, struct config_place place, const char *file, size_t max, size_t *len);

/* The same of one that is open: at most max bytes, with a NUL behind them. 0, -EFBIG or another -errno. */
int reading_all(int fd, size_t max, char **text, size_t *len);

void wordlist_add(struct document *d, struct config_words *w, const char *word, size_t len);
/* Letter case does not count in these two. */
bool wordlist_has(const struct config_words *w, const char *word);
void wordlist_remove(struct config_words *w, const char *word);
void wordlist_clear(struct config_words *w);
void wordlist_copy(struct document *d, struct config_words *to, const struct config_words *from);

/* The words from the i-th on in one line, each quoted where it must be (document_quote()). The caller's to free; ""
 * where there are none, NULL where there is no memory. */
char *wordlist_join(struct document *d, const struct config_words *w, size_t i);

/* env = those of the words that are NAME=value, the last of each name, with one that hark.conf takes; or pass_env =
 * those that are such names, after before. The others are dropped. */
void reading_environment(struct document *d, struct document_section *s, struct config_place place,
                         const struct config_words *w, bool names, const char *before);

#endif
