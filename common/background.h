/* background.h — going into the background. */
#ifndef BACKGROUND_H
#define BACKGROUND_H

/* Returns in a child, which leads a session of its own: the descriptor on which it writes one byte once it is ready.
 * The caller stays until then, or until the child has ended, and ends accordingly: 0, the child's exit status, or 1.
 * -errno: no child. Once, before there are threads. */
int background_begin(void);

#endif
