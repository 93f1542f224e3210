/* Lets a call of the C library fail, once, as a disk or a network folder would: preloaded by tests/reliability/errnos.py.
   arm(kind, first, last, number, folder): calls `first` to `last` of that kind that concern a path under the folder fail
   with errno `number`. calls(kind): how many there were since. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, WRITE, FSYNC, RENAME, STAT, KINDS };
static char folder[4096];
static int wanted = -1, number;
static long first, last;
static atomic_long seen[KINDS];

void arm(int kind, long from, long to, int error, const char *place) {
    if (place[0]) for (int i = 0; i < KINDS; i++) seen[i] = 0;
    wanted = kind, first = from, last = to, number = error;
    strncpy(folder, place, sizeof folder - 1);
}
long calls(int kind) { return seen[kind]; }

static int hit(int kind, const char *path) {
    if (!folder[0] || !path || strncmp(path, folder, strlen(folder))) return 0;
    long count = ++seen[kind];
    if (kind != wanted || count < first || count > last) return 0;
    errno = number;
    return 1;
}
static int hit_file(int kind, int file) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return hit(kind, path);
}
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *p, int f, ...) { MODE(f) return hit(OPEN, p) ? -1 : REAL(open)(p, f, mode); }
int open64(const char *p, int f, ...) { MODE(f) return hit(OPEN, p) ? -1 : REAL(open64)(p, f, mode); }
int openat(int d, const char *p, int f, ...) { MODE(f) return hit(OPEN, p) ? -1 : REAL(openat)(d, p, f, mode); }
int openat64(int d, const char *p, int f, ...) { MODE(f) return hit(OPEN, p) ? -1 : REAL(openat64)(d, p, f, mode); }
int mkdir(const char *p, mode_t m) { return hit(OPEN, p) ? -1 : REAL(mkdir)(p, m); }
ssize_t write(int f, const void *b, size_t n) { return hit_file(WRITE, f) ? -1 : REAL(write)(f, b, n); }
ssize_t writev(int f, const struct iovec *v, int n) { return hit_file(WRITE, f) ? -1 : REAL(writev)(f, v, n); }
int ftruncate(int f, off_t n) { return hit_file(WRITE, f) ? -1 : REAL(ftruncate)(f, n); }
int ftruncate64(int f, off64_t n) { return hit_file(WRITE, f) ? -1 : REAL(ftruncate64)(f, n); }
int fsync(int f) { return hit_file(FSYNC, f) ? -1 : REAL(fsync)(f); }
int rename(const char *a, const char *b) { return hit(RENAME, a) ? -1 : REAL(rename)(a, b); }
int renameat(int d, const char *a, int e, const char *b) { return hit(RENAME, a) ? -1 : REAL(renameat)(d, a, e, b); }
int stat(const char *p, struct stat *s) { return hit(STAT, p) ? -1 : REAL(stat)(p, s); }
int lstat(const char *p, struct stat *s) { return hit(STAT, p) ? -1 : REAL(lstat)(p, s); }
int fstat(int f, struct stat *s) { return hit_file(STAT, f) ? -1 : REAL(fstat)(f, s); }
int fstatat(int d, const char *p, struct stat *s, int f) { return hit(STAT, p) ? -1 : REAL(fstatat)(d, p, s, f); }
int statx(int d, const char *p, int f, unsigned m, struct statx *s) {
    return (*p ? hit(STAT, p) : hit_file(STAT, d)) ? -1 : REAL(statx)(d, p, f, m, s);
}
int stat64(const char *p, struct stat64 *s) { return hit(STAT, p) ? -1 : REAL(stat64)(p, s); }
int lstat64(const char *p, struct stat64 *s) { return hit(STAT, p) ? -1 : REAL(lstat64)(p, s); }
int fstat64(int f, struct stat64 *s) { return hit_file(STAT, f) ? -1 : REAL(fstat64)(f, s); }
int statvfs(const char *p, struct statvfs *s) { return hit(STAT, p) ? -1 : REAL(statvfs)(p, s); }
int statvfs64(const char *p, struct statvfs64 *s) { return hit(STAT, p) ? -1 : REAL(statvfs64)(p, s); }
