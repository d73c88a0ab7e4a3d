/* import.h — foreign formats, read into the configuration's own document (document.h).
 *
 * Each call adds to d what file says; a mistake is one of d's errors and never ends the reading of the rest. A file
 * that cannot be read is an error too. Return 0, or -ENOMEM. Any thread, one at a time for one document. */
#ifndef IMPORT_H
#define IMPORT_H

#include "document.h"

int import_inetd(struct document *d, const char *file);
int import_xinetd(struct document *d, const char *file);
/* socket_file: X.socket, read as systemd would with its service and the drop-ins of both; a unit that was read already,
 * under whatever name, is not read again. */
int import_systemd(struct document *d, const char *socket_file);

#endif
