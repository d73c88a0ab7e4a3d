/* xinetd_section.h — a section of hark.conf being made of an xinetd service: what xinetd_service.c and xinetd_access.c
 * share. */
#ifndef XINETD_SECTION_H
#define XINETD_SECTION_H

#include "xinetd.h"

#define XINETD_COUNT_MAX 1000000000 /* what hark.conf takes at most */

struct xinetd_section {
	struct document *d;
	struct document_section *s;
	const struct xinetd_entry *e;
	const struct xinetd_value *v; /* the values, by attribute */
	bool stream, wait, internal, redirect;
	bool off;            /* the file itself has it disabled */
	bool loopback, four; /* only_from, as an address to listen on */
	bool local;          /* bind is an address that this host alone reaches, and only_from is this host */
	char bind[256];      /* an address or a name; "": every address */
	char why[64];        /* why it is disabled here; "": it is not */
};

/* ---- xinetd_service.c ---- */

/* The attribute's first word, or NULL. */
const char *xinetd_value_of(const struct xinetd_section *m, enum xinetd_attribute a);

/* Whether word is among the attribute's. */
bool xinetd_has(const struct xinetd_section *m, enum xinetd_attribute a, const char *word);

/* Its place; not set: the entry's. */
struct config_place xinetd_at(const struct xinetd_section *m, enum xinetd_attribute a);

/* Counts what needs no setting as carried over: hark does it anyway. */
void xinetd_covered(const struct xinetd_section *m);

/* Remembers why the section must be disabled; the first reason is the one that is told. */
void xinetd_disable(struct xinetd_section *m, const char *why);

/* Reports a value that xinetd cannot read either: it disables the service. */
void xinetd_bad(struct xinetd_section *m, enum xinetd_attribute a, const char *wanted);

/* "ATTRIBUTE = VALUE: why" is not carried over. */
void xinetd_drop(const struct xinetd_section *m, enum xinetd_attribute a, const char *why);

/* yes: 1, no: 0; -1: not set, or neither, which is said. */
int xinetd_yes(struct xinetd_section *m, enum xinetd_attribute a);

/* False: text is no number of at most max. */
bool xinetd_number(const char *text, int64_t max, int64_t *out);

/* words ends with NULL. Letter case does not count. */
bool xinetd_is_one_of(const char *word, const char *const *words);

/* bind is not set, or says every address. */
bool xinetd_binds_all(const struct xinetd_section *m);

/* What its port is in this machine's services database; -1: it is not there. */
int xinetd_port_known(const struct xinetd_section *m);

/* Whether the file itself has it disabled: disable, and defaults' two lists of ids must both let it be. */
bool xinetd_is_off(struct xinetd_section *m, const struct xinetd_entry *defaults);

/* ---- xinetd_tcpmux.c ---- */

/* It has no port of its own. */
bool xinetd_is_behind(const struct xinetd_entry *e);

/* What listens for those. */
bool xinetd_is_tcpmux(const struct xinetd_entry *e);
bool xinetd_has_tcpmux(struct xinetd_entry *const *entries, size_t n);

void xinetd_refuse_behind(struct document *d, const struct xinetd_entry *e, const char *why);

/* Sets box. The first of those behind it, as whose user they all run; NULL: there is none. */
const struct xinetd_entry *xinetd_make_tcpmux(struct xinetd_section *mux, struct xinetd_entry *const *entries, size_t n,
                                              const struct xinetd_entry *defaults);

/* ---- xinetd_access.c ---- */

/* Decides which addresses to listen on say as much as only_from: before listen is made. */
void xinetd_narrow(struct xinetd_section *m);
void xinetd_access(struct xinetd_section *m);
void xinetd_limits(struct xinetd_section *m);

#endif
