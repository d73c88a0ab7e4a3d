/* inside.h — what the files of config/ share and nobody else sees.
 *
 * The way of a configuration: read.c (hark.conf, by libinih) or config.c (a document) makes sections of settings, text
 * with a place. service.c makes a service of each: every setting goes through its key's row in keys.c, whose kind
 * (values.c) reads and prints it; then what belongs together is checked, box and addresses (collide.c) last.
 * Whatever is wrong becomes a message and the reading goes on, so that one pass finds all.
 *
 * Memory: where there is none, whole.no_memory is set and the work goes on as it can; config.c then gives all of it
 * back and returns -ENOMEM. One thread at a time. */
#ifndef CONFIG_INSIDE_H
#define CONFIG_INSIDE_H

#include <limits.h>

#include "config.h"

#define NAME_BYTES_MAX    63      /* of a service: COUNTERS_NAME_MAX with its NUL */
#define SERVICES_MAX      1024    /* COUNTERS_SERVICES_MAX */
#define SETTINGS_MAX      4096    /* of a section */
#define LISTEN_MAX        64      /* addresses of a service */
#define ADDRESSES_MAX     4096    /* of all services: each is compared with each */
#define FILE_BYTES_MAX    1048576 /* of one file */
#define TOTAL_BYTES_MAX   8388608 /* of all files together */
#define FILES_MAX         1024
#define INCLUDE_DEPTH_MAX 8
#define LINE_BYTES_MAX    65536 /* of one line with its continuations */
#define MESSAGES_MAX      1000  /* errors and warnings that are told */
#define WORDS_MAX         1024  /* of one key */
#define WORDS_BYTES_MAX   16384 /* of one value, as they are: written they are at most three times as long */
#define GROUPS_MAX        NGROUPS_MAX
#define NETWORKS_MAX      1024 /* of one service */

/* A place, and when it was come to: what "in the order of the file" means where files include others. file NULL:
 * nowhere. */
struct at {
	const char *file;
	int line;
	unsigned order;
};

enum message_kind { MESSAGE_ERROR = 0, MESSAGE_WARNING };

struct message {
	char *text;
	unsigned order, number; /* number: keeps those of one place as they came */
	enum message_kind kind;
	bool skipped; /* an error whose line or service is left out: config_skip_wrong() */
};

struct setting {
	const struct config_key *key; /* NULL: the name may be an option of the section's box */
	char *name;                   /* key NULL */
	char *value;
	struct at at;
};

struct section {
	char *name;
	bool wrong; /* its name is: what is in it is checked, and forgotten */
	struct at at;
	unsigned end; /* order of its last setting; 0: not told */
	struct setting *settings;
	size_t n;
};

#define KEYS_MAX 96 /* rows of config_keys */

enum { WHAT_EXEC = 0, WHAT_BOX, WHAT_RELAY, WHATS };

/* A service with what only config/ needs to know of it. */
struct service {
	struct config_service s; /* first: others have a pointer to it */
	struct at at[KEYS_MAX];  /* where each key was set, in [defaults] or by the service itself */
	bool own[KEYS_MAX];      /* it was the service itself */
	struct at listen_at[LISTEN_MAX];
	struct config_words what[WHATS]; /* as they were given */
	unsigned order, end;             /* of its head's place, and of its last setting's */
	bool program_bad;                /* the box refused its arguments, or lacks its program: that was said */
	const char *program;             /* the box's, among its operands; NULL: it runs none */
	char *const *targets;            /* what it dials, likewise: n_targets of them */
	size_t n_targets;
	struct config_words option_words; /* "--x=V" for each option that a key set */
	struct config_words option_lines; /* "x = V" for each that is not on the box's own line */
	struct setting *kept;             /* of a shared object's box: the settings that may be its options */
	size_t n_kept;
	struct config_words group_names;
};

struct whole {
	struct config c; /* first: others have a pointer to it */
	struct at at[KEYS_MAX];
	bool no_memory, system_checked;
	bool keys_alone; /* nothing is served: config_load_keys() */
	unsigned order;  /* the last place's */
	char **files;    /* names that places point at */
	size_t n_files, total_bytes;
	struct section **sections;
	size_t n_sections;
	struct message *messages;
	size_t n_messages;
	bool too_many; /* messages */
};

/* ---- memory: NULL or -1 once there is none, and no_memory is set ---- */

/* Room for one more in an array of n, which grows by doubling. */
void *inside_room(struct whole *w, void *array, size_t n, size_t size);
char *inside_copy(struct whole *w, const char *text, size_t n);

/* Takes word over, even on failure. */
int inside_add_word(struct whole *w, struct config_words *to, char *word);
void inside_free_words(struct config_words *words);

/* ---- messages ---- */

void inside_message(struct whole *w, enum message_kind kind, struct at at, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

#define inside_error(w, at, ...)   inside_message(w, MESSAGE_ERROR, at, __VA_ARGS__)
#define inside_warning(w, at, ...) inside_message(w, MESSAGE_WARNING, at, __VA_ARGS__)

/* Puts the messages into c's errors and warnings, in the order of the file. May be called again after more of them. */
void inside_publish(struct whole *w);

/* The next place. */
struct at inside_at(struct whole *w, const char *file, int line);
const char *inside_file(struct whole *w, const char *name);

/* ---- sections ---- */

/* A new section; a name that cannot be one, or is taken, is said. NULL: there are too many, or there is no memory. */
struct section *inside_section(struct whole *w, const char *name, struct at at);

/* Adds a setting to a section (NULL: before the first one), or says why not. */
void inside_setting(struct whole *w, struct section *s, struct at at, const char *name, const char *value);

void inside_read(struct whole *w, const char *file);
/* The same from memory, as if it were in file. */
void inside_read_bytes(struct whole *w, const char *file, const char *bytes, size_t n);

/* config_load() from memory, for the fuzzer. */
int inside_load_bytes(const char *file, const char *bytes, size_t n, struct config **out);

/* Sections become services and [harkd]'s settings. */
void inside_build(struct whole *w);

/* Two services, or one, on the same address. */
void inside_collide(struct whole *w);
/* Those whose names have the same address here and now. */
void inside_collide_names(struct whole *w);

/* ---- keys and values ---- */

enum {
	KEY_LIST = 1, /* may be given several times, adding up */
	KEY_OWN = 2,  /* no default can be set for it */
	KEY_UNIX = 4, /* of unix sockets alone */
	KEY_TLS = 8,  /* of tls:// addresses alone */
};

/* What a value is read for. */
struct reading {
	struct whole *w;
	struct at at;
	bool quiet;   /* it was read before, and what is wrong was said */
	bool bad;     /* out: it is wrong */
	bool lenient; /* what this system lacks is a warning: the service is disabled */
	const char *value;
	const struct config_key *key;
};

/* Says what is wrong with the value, after the key's name. */
void inside_bad(struct reading *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For fields that are a char *: a copy of text; and "key = text", or nothing where it is NULL. */
void inside_set_text(struct reading *r, char **field, const char *text);
void inside_print_text(const struct config_key *key, const void *base, FILE *to);

/* How the values of a kind are read and printed. base is the struct that the key's offset is in. */
struct kind {
	void (*read)(struct reading *r, const char *value, void *base);
	/* "key = value\n", or nothing where there is none. */
	void (*print)(const struct config_key *key, const void *base, FILE *to);
};

struct choice {
	const char *name;
	int value;
};

struct config_how {
	const struct kind *kind;
	size_t at; /* offsetof() in struct service or struct config */
	unsigned flags;
	int64_t min, max;
	const struct choice *choices; /* ends with a name NULL */
	const char *suffixes;
	unsigned number; /* a resource of setrlimit(2) */
};

/* The TLS settings' files and names: values_tls.c. */
extern const struct kind kind_files, kind_file, kind_alpn;

/* Says what is wrong with them together, and with the addresses. */
void tls_check(struct whole *w, struct service *s);

const struct config_key *key_find(const char *name);
int key_index(const struct config_key *key);
/* That key's place, by its name; a key that is not there is a mistake of ours. */
struct at key_at(const struct at at[KEYS_MAX], const char *name);
/* " (did you mean X?)" or "". global: of [harkd]'s keys, else of a service's. */
const char *key_hint(const char *name, bool global, char *buf, size_t cap);

extern const struct kind kind_banner, kind_bool, kind_choice, kind_duration, kind_env, kind_group, kind_groups,
	kind_include, kind_listen, kind_load, kind_names, kind_networks, kind_number, kind_octal, kind_one_of,
	kind_path, kind_path_or, kind_prefix, kind_rate, kind_rlimit, kind_seconds, kind_size, kind_socket_group,
	kind_socket_user, kind_user, kind_words;

/* ---- users.c: names and numbers. 0; -ENOENT: there is none; or another -errno of the database. ---- */

int users_find(const char *name, uid_t *uid, gid_t *gid);
int users_find_group(const char *name, gid_t *gid);
/* Writes the ith of the variables that login(1) sets for a user, "HOME=/root", into text. NULL: there is no such
 * variable or user; "": it does not fit. */
const char *users_variable(uid_t uid, size_t i, char *text, size_t cap);
/* The supplementary groups of a user. The array is the caller's to free. */
int users_groups(uid_t uid, gid_t gid, gid_t **groups, size_t *n);

/* ---- words.c ---- */

/* Splits text as exec and env have it: '..', "..", backslash; no shell. Adds to words. NULL, or what is wrong.
 * *comment (may be NULL) becomes true if a word looks like the beginning of a comment. */
const char *words_split(struct whole *w, const char *text, struct config_words *words, bool *comment);

/* Prints a word so that words_split() makes the same one of it. */
void words_print(const char *word, FILE *to);

/* Prints what print.c and config_service.text have in common. */
void print_service(const struct service *s, FILE *to);

void service_free(struct service *s);

/* SOCK_STREAM or SOCK_DGRAM; 0: only the socket itself can tell. */
int address_type(const char *address);

/* Whether we would run the program, found in path where its name has no '/'. 0 or an errno; *at: the first bytes of it
 * that name the directory in the way, 0: it is the program. */
int program_look(const char *program, const char *path, int *at);

/* ---- box_keys.c: the options of a service's box, by its own line and by keys ---- */

/* Says which settings of the section are neither keys nor options of its box. box may be NULL: it is not known. */
void box_keys_check(struct whole *w, const struct section *own, const struct hark_box_row *box);
/* Says which of them have no effect with wait. */
void box_keys_check_wait(struct whole *w, const struct service *s, const struct section *own);
/* The same of [defaults]: there, any box's options may be. */
void box_keys_check_defaults(struct whole *w, const struct section *defaults);
/* Puts the options among words, the box's own line from its from-th word on, and the settings into state. Returns how
 * many words those were, or -1: what is wrong was said. */
int box_keys_read(struct whole *w, struct service *s, const struct section *own, const struct section *defaults,
                  const struct config_words *words, size_t from, void *state);

/* Keeps the settings as they are: the options of a shared object that is not loaded here. */
void box_keys_keep(struct whole *w, struct service *s, const struct section *own);
void box_keys_free(struct service *s);
/* What is wrong with the ith of them, once it is. 0, or -EINVAL with why; -ENOMEM. */
int box_keys_try(const struct service *s, size_t i, const struct hark_box_row *box, struct hark_why *why);

/* service.c: whether the box can serve the service's ith address. 0, or -EINVAL with why. */
int service_try_listen(const struct service *s, size_t i, const struct hark_box_row *box, const void *state,
                       struct hark_why *why);

/* "exec", "box", "relay"; and which of them a service has, the first of them. */
extern const char *const what_names[WHATS];
int service_what(const struct service *s);

/* $PATH as the service's worker will have it; NULL: none. */
const char *service_path(const struct service *s);

#endif
