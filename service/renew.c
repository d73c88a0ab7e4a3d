/* renew.c — see renew.h. A change is told by stat(2) alone: nothing is read until then. A pair of which one file is
 * still to be written does not go together: what was read before goes on, and the next change is tried again. */
#include "renew.h"

#define AGAIN_FIRST_NS (5 * HARK_S)
#define AGAIN_MAX_NS   (3600 * HARK_S)

#include <sys/stat.h>
#include <time.h>

/* FNV-1a over what tells that a file is another one. */
static uint64_t add(uint64_t hash, const void *bytes, size_t n)
{
	const unsigned char *at = bytes;
	for (size_t i = 0; i < n; i++)
		hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static void add_file(struct renew_stamp *s, const char *path)
{
	struct stat st;
	if (path == NULL)
		return;
	if (s->hash == 0)
		s->hash = UINT64_C(0xcbf29ce484222325);
	if (stat(path, &st) < 0) {
		s->hash = add(s->hash, "gone", 4);
		s->changed_ns = INT64_MAX;
		return;
	}
	const uint64_t facts[] = {(uint64_t)st.st_dev,          (uint64_t)st.st_ino,
	                          (uint64_t)st.st_size,         (uint64_t)st.st_mtim.tv_sec,
	                          (uint64_t)st.st_mtim.tv_nsec, (uint64_t)st.st_ctim.tv_sec,
	                          (uint64_t)st.st_ctim.tv_nsec};
	int64_t changed_ns = st.st_ctim.tv_sec * HARK_S + st.st_ctim.tv_nsec;
	s->hash = add(s->hash, facts, sizeof facts);
	s->changed_ns = changed_ns > s->changed_ns ? changed_ns : s->changed_ns;
}

static void add_tls(struct renew_stamp *s, const struct config_service *c)
{
	for (size_t i = 0; i < c->cert.n; i++)
		add_file(s, c->cert.word[i]);
	for (size_t i = 0; i < c->key.n; i++)
		add_file(s, c->key.word[i]);
	add_file(s, c->client_ca);
	add_file(s, c->client_crl);
}

struct renew_stamp renew_stamp(const struct config_service *conf, const struct hark_box_row *box, const void *state)
{
	struct renew_stamp s = {0};
	if (conf != NULL)
		add_tls(&s, conf);
	for (const struct hark_option *o = box != NULL && box->renew != NULL ? box->options : NULL;
	     o != NULL && o->name != NULL; o++)
		if (o->kind == HARK_OPTION_PATH)
			add_file(&s, *(char *const *)((const char *)state + o->at));
	return s;
}

static bool is_complete(const struct renew_files *f, struct renew_stamp now)
{
	struct timespec clock;
	(void)clock_gettime(CLOCK_REALTIME, &clock);
	return now.hash == f->seen || now.changed_ns <= clock.tv_sec * HARK_S + clock.tv_nsec - RENEW_LOOK_NS;
}

bool renew_is_due(struct renew_files *f, struct renew_stamp now)
{
	bool changed = now.hash != f->tried;
	bool due = changed ? is_complete(f, now) : f->again != 0 && hark_now() >= f->again;
	f->seen = now.hash;
	if (now.hash == 0 || now.hash == f->read || !due)
		return false;
	if (changed)
		f->wait = 0;
	f->tried = now.hash; /* be it that it cannot be read */
	f->again = 0;
	return true;
}

void renew_put_off(struct renew_files *f)
{
	f->wait = f->wait == 0 ? AGAIN_FIRST_NS : f->wait < AGAIN_MAX_NS / 2 ? f->wait * 2 : AGAIN_MAX_NS;
	f->again = hark_after(f->wait);
}

static struct renew_stamp stamp_of(const struct renew *r)
{
	return renew_stamp(r->conf, r->box, r->state);
}

void renew_begin(struct renew *r)
{
	uint64_t hash = stamp_of(r).hash;
	r->files = (struct renew_files){.read = hash, .tried = hash, .seen = hash};
	r->looked = hark_now();
}

static int read_again(struct renew *r, struct hark_why *why)
{
	int error = r->tls != NULL ? config_tls_reload(r->conf, r->opts, r->tls, why) : 0;
	return error == 0 && r->box != NULL ? r->box->renew(r->state, why) : error;
}

void renew_look(struct renew *r)
{
	struct hark_why why = {""};
	int64_t now = hark_now();
	if (r->files.read == 0 || now < r->looked + RENEW_LOOK_NS)
		return;
	r->looked = now;
	if (!renew_is_due(&r->files, stamp_of(r)))
		return;
	int error = read_again(r, &why);
	if (error < 0)
		renew_put_off(&r->files);
	else
		r->files.read = r->files.tried;
	r->told(error, why.text[0] != '\0' ? why.text : hark_strerror(error), r->told_arg);
}
