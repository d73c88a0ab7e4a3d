/* serve_keys.c — see serve_keys.h. Main thread, before anything is served. */
#include "serve_keys.h"

#include <string.h>

#define NAME_MAX_BYTES 32

/* What is served and when: the command line says that itself. */
static bool is_ours(const struct config_key *k)
{
	static const char *const others[] = {"listen", "exec", "box", "relay", "disable", "start", "stop_idle"};

	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		if (strcmp(k->name, others[i]) == 0)
			return false;
	return !k->global;
}

static const char *with_dashes(const char *key, char buf[NAME_MAX_BYTES])
{
	(void)snprintf(buf, NAME_MAX_BYTES, "%s", key);
	for (char *p = buf; *p != '\0'; p++)
		*p = *p == '_' ? '-' : *p;
	return buf;
}

/* pass_env's differs: what is started by hand has the environment of who does. */
static const char *standard_of(const struct config_key *k)
{
	return strcmp(k->name, "pass_env") == 0 ? "*" : k->standard;
}

int serve_keys_rows(struct option_row rows[SERVE_KEYS_MAX],
                    int (*take)(const struct verb *v, const char *name, const char *text, void *to))
{
	static char names[SERVE_KEYS_MAX][NAME_MAX_BYTES], values[SERVE_KEYS_MAX][48], helps[SERVE_KEYS_MAX][128];
	int n = 0;

	for (const struct config_key *k = config_keys; k->name != NULL && n < SERVE_KEYS_MAX; k++) {
		const char *standard = standard_of(k);
		bool yes_no = strcmp(k->value, "yes|no") == 0;
		if (!is_ours(k))
			continue;
		/* Several words: completion takes a blank for the value's end. */
		int first = (int)strcspn(k->value, " ");
		(void)snprintf(values[n], sizeof values[n], "%.*s%s", first, k->value,
		               k->value[first] != '\0' ? "..." : "");
		(void)snprintf(helps[n], sizeof helps[n], standard[0] != '\0' && !yes_no ? "%s (%s)" : "%s", k->summary,
		               standard);
		rows[n] = (struct option_row){.name = with_dashes(k->name, names[n]),
		                              .kind = OPTION_CALL,
		                              .value = yes_no ? NULL : values[n],
		                              .help = helps[n],
		                              .take = take};
		n++;
	}
	return n;
}

int serve_keys_set(struct serve_keys *k, const struct verb *v, const char *name, const char *text)
{
	static const struct config_place here = {.file = "hark: serve"};
	char key[NAME_MAX_BYTES];

	if (k->document == NULL) {
		k->document = document_new();
		k->section = k->document != NULL ? document_section(k->document, "serve", here) : NULL;
	}
	(void)snprintf(key, sizeof key, "%s", name);
	for (char *p = key; *p != '\0'; p++)
		*p = *p == '-' ? '_' : *p;
	if (k->section != NULL)
		document_set(k->document, k->section, here, key, "%s", text);
	if (k->document != NULL && !document_broken(k->document))
		return STATUS_DONE;
	say(v, "out of memory");
	return STATUS_SYSTEM;
}

/* "hark: serve: max_conns: ...": the key is shown as the option that it was. */
static void tell(const struct verb *v, const char *message)
{
	const char *text = strncmp(message, "hark: serve: ", 13) == 0 ? message + 13 : message;
	size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz_0123456789");
	char name[NAME_MAX_BYTES] = "";

	for (const struct config_key *k = config_keys; k->name != NULL && n < sizeof name; k++)
		if (strlen(k->name) == n && memcmp(k->name, text, n) == 0)
			(void)with_dashes(k->name, name);
	if (name[0] != '\0')
		say(v, "--%s%s", name, text + n);
	else
		say(v, "%s", text);
}

int serve_keys_load(struct serve_keys *k, const struct verb *v, struct config **out)
{
	int status = STATUS_DONE;
	struct config *c = NULL;
	struct hark_why unmet;

	if (k->section == NULL || document_get(k->section, "pass_env") == NULL)
		status = serve_keys_set(k, v, "pass_env", "*");
	int errors = status == STATUS_DONE ? config_load_keys(k->document, &c) : 0;
	document_free(k->document);
	*k = (struct serve_keys){0};
	if (status != STATUS_DONE)
		return status;
	for (size_t i = 0; c != NULL && i < c->n_errors; i++)
		tell(v, c->errors[i]);
	if (errors < 0)
		say(v, "out of memory");
	if (errors != 0) {
		config_free(c);
		return errors < 0 ? STATUS_SYSTEM : STATUS_USAGE;
	}
	for (unsigned i = 0; i < CONFIG_RLIMITS; i++)
		if (config_limit_unmet(c->services[0], i, &unmet))
			tell(v, unmet.text);
	*out = c;
	return STATUS_DONE;
}
