/* cmd_status.c — hark status: what a running harkd does, once or again and again.
 *
 * Each round asks over a connection of its own, so that a watch outlives a restart and an upgrade of harkd without
 * knowing of them: it sees by the pid and the generation that another one answers. Main thread. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "control.h"
#include "hark.h"
#include "options.h"
#include "status_view.h"
#include "text.h"
#include "tool.h"

#define TIMEOUT_DEFAULT (5 * HARK_S)
#define PERIOD_DEFAULT  (2 * HARK_S)
#define PERIOD_LEAST    (100 * HARK_MS)
#define RETRY_MAX       HARK_S /* how long harkd is left alone that did not answer */

struct status_args {
	struct control_args control; /* first: CONTROL_AT */
	int64_t watch;
};

static const struct option_row options[] = {
	{"watch", 0, OPTION_PERIOD, "[=T]", "again and again, every T (2s), until Ctrl-C",
         offsetof(struct status_args, watch), PERIOD_LEAST, PERIOD_DEFAULT},
	CONTROL_JSON_ROW,
	CONTROL_PATH_ROW,
	CONTROL_TIMEOUT_ROW("5s"),
	{0},
};

struct status {
	struct control control;
	struct status_args args;
	bool one, terminal, drawn, lost;
	struct control_answer now, before;
	int64_t now_ns, before_ns; /* hark_now() when they came */
	char note[300];            /* what has happened to harkd; "" if nothing */
};

/* ---- showing --------------------------------------------------------------------------------- */

/* The lines that fit, from the top left corner: nothing scrolls, and nothing flickers. */
static void draw(struct status *s, const char *text)
{
	struct winsize window = {0};
	int rows = 24, columns = 80;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_row > 1 && window.ws_col > 0) {
		rows = window.ws_row;
		columns = window.ws_col;
	}
	fputs(s->drawn ? "\033[H" : "\033[H\033[2J", stdout);
	s->drawn = true;
	for (int row = 1; *text != '\0' && row < rows; row++) {
		size_t len = strcspn(text, "\n");
		printf("%.*s\033[K\n", len < (size_t)columns ? (int)len : columns, text);
		text += len + (text[len] == '\n');
	}
	fputs("\033[J", stdout);
}

static void view(const struct status *s, FILE *to)
{
	bool rates = s->args.watch > 0;
	struct status_view v = {
		.now = s->now.json,
		.before = rates && s->before.ok ? s->before.json : NULL,
		.elapsed_s = (double)(s->now_ns - s->before_ns) / 1e9,
		.rates = rates,
	};

	if (s->note[0] != '\0')
		fprintf(to, "%s\n", s->note);
	if (!s->now.ok)
		return;
	if (s->one)
		status_view_service(&v, to);
	else
		status_view_table(&v, to);
}

/* Returns STATUS_DONE, or STATUS_FAILED once nobody can read it. */
static int flush(const struct status *s)
{
	if (fflush(stdout) == 0)
		return STATUS_DONE;
	say(s->control.verb, "standard output: %s", strerror(errno));
	return STATUS_FAILED;
}

static int show(struct status *s)
{
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);

	if (to != NULL)
		view(s, to);
	if (!text_close_stream(to, &text)) {
		say(s->control.verb, "%s", strerror(ENOMEM));
		return STATUS_SYSTEM;
	}
	if (s->terminal)
		draw(s, text);
	else
		printf("%s%s", s->drawn ? "\n" : "", text);
	s->drawn = true;
	free(text);
	return flush(s);
}

/* ---- asking ---------------------------------------------------------------------------------- */

/* One answer, with services in it unless it is a refusal; --json prints any. */
static int ask(struct status *s, struct hark_why *why)
{
	int err = control_ask(&s->control, &s->now, why);

	if (err == 0 && s->now.ok && !s->args.control.json &&
	    (!status_view_fits(s->now.json) ||
	     (s->one && json_array_size(json_object_get(s->now.json, "services")) != 1))) {
		control_answer_free(&s->now);
		(void)snprintf(why->text, sizeof why->text,
		               "%s: not harkd's answer: not the services that were asked for", s->control.path);
		err = -EBADMSG;
	}
	s->now_ns = hark_now();
	return err;
}

static int once(struct status *s)
{
	struct hark_why why = {""};

	if (ask(s, &why) < 0) {
		say(s->control.verb, "%s", why.text);
		return STATUS_SYSTEM;
	}
	if (s->args.control.json)
		puts(s->now.line);
	if (!s->now.ok) {
		control_tell_refusal(s->control.verb, &s->now);
		return STATUS_FAILED;
	}
	return s->args.control.json ? flush(s) : show(s);
}

/* ---- watching -------------------------------------------------------------------------------- */

/* Another harkd answers than before: an upgrade counts on, a restart begins anew. */
static void note_change(struct status *s)
{
	int64_t pid = control_count(s->now.json, "pid"), old_pid = control_count(s->before.json, "pid");
	int64_t generation = control_count(s->now.json, "generation"),
		old = control_count(s->before.json, "generation");

	s->note[0] = '\0';
	if (s->before.json == NULL || pid == old_pid)
		return;
	if (generation > old)
		(void)snprintf(s->note, sizeof s->note,
		               "harkd was upgraded: generation %lld, pid %lld, in place of %lld", (long long)generation,
		               (long long)pid, (long long)old_pid);
	else
		(void)snprintf(s->note, sizeof s->note, "harkd was restarted: pid %lld in place of %lld",
		               (long long)pid, (long long)old_pid);
	if (generation <= old)
		control_answer_free(&s->before);
}

/* harkd does not answer. A terminal shows the last that was known under it; elsewhere it is said once. */
static int show_outage(struct status *s, const char *why)
{
	bool told = s->lost;

	s->lost = true;
	if (told && !s->terminal)
		return STATUS_DONE;
	if (s->args.control.json) {
		if (!told)
			say(s->control.verb, "trying again: %s", why);
		return STATUS_DONE;
	}
	(void)snprintf(s->note, sizeof s->note, "trying again: %.270s", why);
	/* Rates of then would pass for ones of now. */
	struct control_answer none = {0}, now = s->now, before = s->before;
	s->now = s->terminal ? before : none;
	s->before = none;
	int status = show(s);
	s->now = now;
	s->before = before;
	return status;
}

static int show_refusal(struct status *s)
{
	char reason[200];

	(void)control_string(s->now.json, "error", reason, sizeof reason);
	control_answer_free(&s->now);
	return show_outage(s, reason[0] != '\0' ? reason : "harkd said no");
}

static int show_answer(struct status *s)
{
	s->lost = false;
	note_change(s);
	if (s->args.control.json) {
		if (s->note[0] != '\0')
			say(s->control.verb, "%s", s->note);
		puts(s->now.line);
		return flush(s);
	}
	return show(s);
}

static void remember(struct status *s)
{
	control_answer_free(&s->before);
	s->before = s->now;
	s->before_ns = s->now_ns;
	s->now = (struct control_answer){0};
}

/* Every block that was shown is whole: there is nothing to finish. */
static void on_interrupt(int signal)
{
	(void)signal;
	_exit(STATUS_DONE);
}

static int watch(struct status *s)
{
	struct sigaction action = {.sa_handler = on_interrupt};
	struct hark_why why = {""};
	int64_t retry = s->args.watch < RETRY_MAX ? s->args.watch : RETRY_MAX;

	(void)sigaction(SIGINT, &action, NULL);
	(void)sigaction(SIGTERM, &action, NULL);
	s->terminal = !s->args.control.json && isatty(STDOUT_FILENO);
	int status = once(s); /* what fails at once is a mistake, not an outage */
	while (status == STATUS_DONE) {
		if (s->now.json != NULL)
			remember(s);
		(void)hark_sleep(s->lost ? retry : s->args.watch);
		if (ask(s, &why) < 0)
			status = show_outage(s, why.text);
		else
			status = s->now.ok ? show_answer(s) : show_refusal(s);
	}
	return status;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct status s = {.args = {.control = {.timeout = TIMEOUT_DEFAULT}}};
	int status;
	int n = options_parse(self, argc, argv, &s.args, &status);

	if (n < 0)
		return status;
	if (n > 1)
		return options_usage(self, "one service at a time");
	s.one = n == 1;
	if ((status = control_init(&s.control, self, &s.args.control, s.one ? argv[0] : NULL)) != STATUS_DONE)
		return status;
	status = s.args.watch > 0 ? watch(&s) : once(&s);
	control_answer_free(&s.now);
	control_answer_free(&s.before);
	return status;
}

const struct verb verb_status = {
	.name = "status",
	.summary = "Tells what a running harkd does: its services, connections, refusals",
	.usage = "[SERVICE]",
	.notes = "One row a service; with SERVICE all that is known of it. REFUSED were closed at once, HELD are the "
		 "times that accepting\n"
		 "paused for a limit, IN and OUT are bytes. A watch goes on when harkd is restarted or upgraded.\n",
	.options = options,
	.run = run,
};
