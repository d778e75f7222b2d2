/* Preloaded into a browser: it may not ask the kernel to be told of networks that come and go. Else it breaks off every
   request that is under way, with ERR_NETWORK_CHANGED, whenever a container of another test starts or ends. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>

int socket(int domain, int type, int protocol) {
  static int (*real)(int, int, int);
  if (domain == AF_NETLINK) {
    errno = EACCES;
    return -1;
  }
  if (!real) real = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
  return real(domain, type, protocol);
}
