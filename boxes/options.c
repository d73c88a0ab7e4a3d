/* options.c — see options.h. Called while a service starts, by one thread. */
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "number.h"

int box_why(struct hark_why *why, int err, const char *format, ...)
{
	if (why != NULL) {
		va_list args;
		va_start(args, format);
		(void)vsnprintf(why->text, sizeof why->text, format, args);
		va_end(args);
	}
	return err;
}

/* The option that text (after its dashes, up to a '=') names, or NULL. */
static const struct box_option *named(const struct box_option options[], const char *text)
{
	size_t len = strcspn(text, "=");
	for (const struct box_option *o = options; o->name != NULL; o++)
		if (strlen(o->name) == len && memcmp(o->name, text, len) == 0)
			return o;
	return NULL;
}

int box_options_front(int argc, char *const argv[], const struct box_option options[], struct hark_why *why)
{
	int i = 0;
	while (i < argc && argv[i][0] == '-' && argv[i][1] != '\0') {
		if (strcmp(argv[i], "--") == 0)
			return i + 1;
		const struct box_option *o = argv[i][1] == '-' ? named(options, argv[i] + 2) : NULL;
		if (o == NULL)
			return box_why(why, -EINVAL, "no such option: %s", argv[i]);
		const char *equals = strchr(argv[i], '=');
		i++;
		if (o->flag != NULL) {
			if (equals != NULL)
				return box_why(why, -EINVAL, "--%s takes no value", o->name);
			*o->flag = true;
		} else if (equals != NULL) {
			*o->value = equals + 1;
		} else {
			if (i == argc)
				return box_why(why, -EINVAL, "--%s wants a value", o->name);
			*o->value = argv[i++];
		}
	}
	return i;
}

int box_duration(const char *name, const char *text, int64_t *ns, struct hark_why *why)
{
	int r = text != NULL ? duration_parse(text, ns) : 0;
	if (r == 0)
		return 0;
	return box_why(why, -EINVAL, "--%s: \"%s\" is %s", name, text,
	               r == -ERANGE ? "too long" : "not a duration (write 500ms, 5s, 2m, 1h, or plain seconds)");
}

int box_options_all(int argc, char *const argv[], const struct box_option options[], struct hark_why *why)
{
	int took = box_options_front(argc, argv, options, why);
	if (took < 0)
		return took;
	if (took < argc)
		return box_why(why, -EINVAL, "unexpected argument: %s", argv[took]);
	return 0;
}
