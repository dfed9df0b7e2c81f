/*
 * Loss of power, as a library to preload (LD_PRELOAD): remembers what a program has written to the
 * files of one folder and not synced, so that a test can take it back after it has killed the program.
 *
 * CLARION_LOSS_FOLDER  the folder whose files are watched, with all folders in it
 * CLARION_LOSS_UNDO    an empty folder outside of it, for what has to be taken back
 *
 * The files in the undo folder hold records, newest last. The test reads them backwards:
 *   data.N   "P" length path                         the path of the file
 *            "W" offset size before-length length bytes   a write, with the bytes that were there
 *            "T" before-length length bytes              a truncation, with the bytes that are gone
 *   names    "C" length path                         a file or folder was created
 *            "R" length path length path slot         a file was moved, over the file kept.SLOT
 *            "U" length path slot                     a file was removed; its content is kept.SLOT
 * All numbers have 8 bytes, little endian. Slot 0: there was no file. `fsync` of a file empties its
 * records, and `fsync` of a folder removes the records of names in it.
 *
 * Not remembered: writes by mmap, sendfile, copy_file_range and io_uring. A program that uses one of
 * the first three on a watched file is stopped, so that no test passes for that reason.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 4096

struct file {
    char *path; /* canonical; NULL: not watched */
    int undo;   /* records of the file, shared by all descriptors of its path */
    int folder; /* whether it is a folder */
};

static struct file files[FDS];
static struct { char *path; int undo; } undos[FDS];
static int undo_count, names_fd = -1;
static uint64_t next_slot = 1;
static char folder[PATH_MAX], undo_folder[PATH_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define REAL(name) static __typeof__(name) *real_##name; if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

static void fail(const char *what)
{
    dprintf(2, "power loss: %s: %s\n", what, strerror(errno));
    abort();
}

static ssize_t put_all(int fd, const void *bytes, size_t size)
{
    REAL(write);
    const char *from = bytes;
    while (size > 0) {
        ssize_t put = real_write(fd, from, size);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) fail("cannot write the undo file");
        from += put;
        size -= (size_t)put;
    }
    return 0;
}

static void begin(void)
{
    const char *watched = getenv("CLARION_LOSS_FOLDER"), *undo = getenv("CLARION_LOSS_UNDO");
    REAL(open);
    if (!watched || !undo) return;
    if (!realpath(watched, folder) || !realpath(undo, undo_folder)) fail("cannot find the folders");
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/names", undo_folder);
    names_fd = real_open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (names_fd < 0) fail("cannot open the undo file");
}

static int ready(void)
{
    pthread_once(&once, begin);
    return folder[0] != 0;
}

/* The absolute path without links; its last part need not exist. */
static int resolved(int dir, const char *path, char out[PATH_MAX])
{
    char whole[PATH_MAX * 2], parent[PATH_MAX * 2];
    if (path[0] == '/' || dir == AT_FDCWD) {
        snprintf(whole, sizeof whole, "%s", path);
    } else {
        char link[64], base[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t size = readlink(link, base, sizeof base - 1);
        if (size < 0) return 0;
        base[size] = 0;
        snprintf(whole, sizeof whole, "%s/%s", base, path);
    }
    if (realpath(whole, out)) return 1;
    char *slash = strrchr(whole, '/');
    const char *last = slash ? slash + 1 : whole;
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - whole) : 1, slash ? whole : ".");
    if (slash == whole) snprintf(parent, sizeof parent, "/");
    char found[PATH_MAX];
    if (!realpath(parent, found)) return 0;
    return snprintf(out, PATH_MAX, "%s/%s", strcmp(found, "/") ? found : "", last) < PATH_MAX;
}

static int watched(const char *path)
{
    size_t size = strlen(folder);
    return strncmp(path, folder, size) == 0 && (path[size] == '/' || path[size] == 0);
}

static void put_number(int fd, uint64_t number) { put_all(fd, &number, 8); }

static void put_text(int fd, const char *text)
{
    put_number(fd, strlen(text));
    put_all(fd, text, strlen(text));
}

static int undo_of(const char *path)
{
    REAL(open);
    for (int i = 0; i < undo_count; i++)
        if (!strcmp(undos[i].path, path)) return undos[i].undo;
    if (undo_count == FDS) fail("too many files");
    char name[PATH_MAX + 32];
    snprintf(name, sizeof name, "%s/data.%d", undo_folder, undo_count);
    int fd = real_open(name, O_RDWR | O_CREAT | O_APPEND, 0600);
    if (fd < 0) fail("cannot open the undo file");
    put_all(fd, "P", 1);
    put_text(fd, path);
    undos[undo_count].path = strdup(path);
    undos[undo_count].undo = fd;
    undo_count++;
    return fd;
}

/* Forgets the records of a file, which is synced. */
static void forget(const char *path)
{
    REAL(ftruncate);
    for (int i = 0; i < undo_count; i++)
        if (!strcmp(undos[i].path, path)) {
            if (real_ftruncate(undos[i].undo, 0)) fail("cannot empty the undo file");
            put_all(undos[i].undo, "P", 1);
            put_text(undos[i].undo, path);
        }
}

/* A file that is moved takes its records along. */
static void moved(const char *from, const char *to)
{
    for (int i = 0; i < undo_count; i++)
        if (!strcmp(undos[i].path, to)) undos[i].path = strdup("");
    for (int i = 0; i < undo_count; i++)
        if (!strcmp(undos[i].path, from)) {
            undos[i].path = strdup(to);
            put_all(undos[i].undo, "P", 1);
            put_text(undos[i].undo, to);
        }
    for (int fd = 0; fd < FDS; fd++)
        if (files[fd].path && !strcmp(files[fd].path, from)) files[fd].path = strdup(to);
}

static int opened(int fd, const char *path, int created)
{
    if (fd < 0) return fd;
    if (fd >= FDS) fail("too many open files");
    struct stat found;
    if (fstat(fd, &found)) fail("cannot look at a file");
    files[fd].path = strdup(path);
    files[fd].folder = S_ISDIR(found.st_mode);
    if (created) {
        put_all(names_fd, "C", 1);
        put_text(names_fd, path);
    }
    if (!files[fd].folder) files[fd].undo = undo_of(path);
    return fd;
}

static void before_write(int fd, off_t offset, size_t size)
{
    REAL(pread);
    struct stat now;
    if (fstat(fd, &now)) fail("cannot look at a file");
    char *bytes = malloc(size ? size : 1);
    /* The descriptor may be for writing only. */
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    REAL(open);
    REAL(close);
    int reader = real_open(link, O_RDONLY);
    if (reader < 0) fail("cannot read a file");
    ssize_t had = real_pread(reader, bytes, size, offset);
    real_close(reader);
    if (had < 0) fail("cannot read a file");
    int undo = files[fd].undo;
    uint64_t head[4] = {(uint64_t)offset, size, (uint64_t)now.st_size, (uint64_t)had};
    char *record = malloc(1 + sizeof head + (size_t)had);
    record[0] = 'W';
    memcpy(record + 1, head, sizeof head);
    memcpy(record + 1 + sizeof head, bytes, (size_t)had);
    put_all(undo, record, 1 + sizeof head + (size_t)had);
    free(record);
    free(bytes);
}

static int is_file(int fd) { return fd >= 0 && fd < FDS && files[fd].path && !files[fd].folder; }

#define GUARDED(fd) (ready() && is_file(fd))

static int open_watched(int dir, const char *path, int flags, mode_t mode)
{
    REAL(openat);
    char whole[PATH_MAX];
    if (!ready() || (flags & O_TMPFILE) == O_TMPFILE || !resolved(dir, path, whole) || !watched(whole))
        return real_openat(dir, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat found;
    int existed = stat(whole, &found) == 0;
    if (existed && (flags & O_TRUNC) && S_ISREG(found.st_mode) && found.st_size > 0) {
        int fd = real_openat(dir, path, O_RDWR);
        if (fd >= 0) {
            REAL(close);
            opened(fd, whole, 0);
            before_write(fd, 0, (size_t)found.st_size);
            free(files[fd].path);
            files[fd].path = NULL;
            real_close(fd);
        }
    }
    int fd = opened(real_openat(dir, path, flags, mode), whole, !existed);
    int problem = errno;
    pthread_mutex_unlock(&lock);
    errno = problem;
    return fd;
}

#define OPEN_MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { OPEN_MODE(flags); return open_watched(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN_MODE(flags); return open_watched(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { OPEN_MODE(flags); return open_watched(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { OPEN_MODE(flags); return open_watched(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_watched(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd)
{
    REAL(close);
    if (ready() && fd >= 0 && fd < FDS && files[fd].path) {
        pthread_mutex_lock(&lock);
        free(files[fd].path);
        files[fd].path = NULL;
        pthread_mutex_unlock(&lock);
    }
    return real_close(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset)
{
    REAL(pwrite64);
    if (!GUARDED(fd)) return real_pwrite64(fd, bytes, size, offset);
    pthread_mutex_lock(&lock);
    before_write(fd, offset, size);
    ssize_t put = real_pwrite64(fd, bytes, size, offset);
    pthread_mutex_unlock(&lock);
    return put;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return pwrite64(fd, bytes, size, offset); }

ssize_t write(int fd, const void *bytes, size_t size)
{
    REAL(write);
    if (!GUARDED(fd)) return real_write(fd, bytes, size);
    pthread_mutex_lock(&lock);
    off_t offset = lseek(fd, 0, (fcntl(fd, F_GETFL) & O_APPEND) ? SEEK_END : SEEK_CUR);
    before_write(fd, offset, size);
    ssize_t put = real_write(fd, bytes, size);
    pthread_mutex_unlock(&lock);
    return put;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    if (!GUARDED(fd)) return real_writev(fd, parts, count);
    ssize_t all = 0;
    for (int i = 0; i < count; i++) {
        ssize_t put = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (put < 0) return all ? all : put;
        all += put;
        if ((size_t)put < parts[i].iov_len) break;
    }
    return all;
}

int ftruncate64(int fd, off_t size)
{
    REAL(ftruncate64);
    if (!GUARDED(fd)) return real_ftruncate64(fd, size);
    pthread_mutex_lock(&lock);
    struct stat now;
    if (fstat(fd, &now)) fail("cannot look at a file");
    if (size < now.st_size) before_write(fd, size, (size_t)(now.st_size - size));
    else before_write(fd, now.st_size, 0);
    int result = real_ftruncate64(fd, size);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int posix_fallocate64(int fd, off_t offset, off_t size)
{
    REAL(posix_fallocate64);
    if (!GUARDED(fd)) return real_posix_fallocate64(fd, offset, size);
    pthread_mutex_lock(&lock);
    before_write(fd, offset, 0);
    int result = real_posix_fallocate64(fd, offset, size);
    pthread_mutex_unlock(&lock);
    return result;
}

int posix_fallocate(int fd, off_t offset, off_t size) { return posix_fallocate64(fd, offset, size); }

/* Forgets the names of one folder: they are synced. */
static void forget_names(const char *path)
{
    REAL(open);
    REAL(read);
    REAL(close);
    REAL(ftruncate);
    char name[PATH_MAX + 16];
    snprintf(name, sizeof name, "%s/names", undo_folder);
    int fd = real_open(name, O_RDONLY);
    struct stat now;
    if (fd < 0 || fstat(fd, &now)) fail("cannot read the undo file");
    char *all = malloc((size_t)now.st_size + 1);
    ssize_t size = real_read(fd, all, (size_t)now.st_size);
    real_close(fd);
    if (size != now.st_size) fail("cannot read the undo file");
    char *kept = malloc((size_t)size + 1);
    size_t kept_size = 0;
    for (ssize_t at = 0; at < size;) {
        ssize_t start = at;
        char kind = all[at++];
        char first[PATH_MAX] = {0};
        for (int texts = kind == 'R' ? 2 : 1; texts > 0; texts--) {
            uint64_t length;
            memcpy(&length, all + at, 8);
            at += 8;
            if (!first[0]) memcpy(first, all + at, length);
            at += (ssize_t)length;
        }
        if (kind != 'C') at += 8;
        char *slash = strrchr(first, '/');
        size_t parent = slash ? (size_t)(slash - first) : 0;
        if (strlen(path) != parent || strncmp(path, first, parent)) {
            memcpy(kept + kept_size, all + start, (size_t)(at - start));
            kept_size += (size_t)(at - start);
        }
    }
    if (real_ftruncate(names_fd, 0)) fail("cannot empty the undo file");
    put_all(names_fd, kept, kept_size);
    free(all);
    free(kept);
}

static int synced(int fd, int (*sync)(int))
{
    if (!ready() || fd < 0 || fd >= FDS || !files[fd].path) return sync(fd);
    pthread_mutex_lock(&lock);
    int result = sync(fd);
    if (result == 0 && files[fd].folder) forget_names(files[fd].path);
    if (result == 0 && !files[fd].folder) forget(files[fd].path);
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { REAL(fsync); return synced(fd, real_fsync); }
int fdatasync(int fd) { REAL(fdatasync); return synced(fd, real_fdatasync); }

/* Keeps the content of a file that is about to lose its name. */
static uint64_t keep(const char *path)
{
    struct stat found;
    if (stat(path, &found)) return 0;
    char kept[PATH_MAX + 32];
    snprintf(kept, sizeof kept, "%s/kept.%llu", undo_folder, (unsigned long long)next_slot);
    if (link(path, kept)) fail("cannot keep a file");
    return next_slot++;
}

static int removed(int dir, const char *path, int flags)
{
    REAL(unlinkat);
    char whole[PATH_MAX];
    if (!ready() || (flags & AT_REMOVEDIR) || !resolved(dir, path, whole) || !watched(whole))
        return real_unlinkat(dir, path, flags);
    pthread_mutex_lock(&lock);
    uint64_t slot = keep(whole);
    int result = real_unlinkat(dir, path, flags);
    if (result == 0) {
        put_all(names_fd, "U", 1);
        put_text(names_fd, whole);
        put_number(names_fd, slot);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) { return removed(dir, path, flags); }
int remove(const char *path) { return removed(AT_FDCWD, path, 0); }

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    REAL(renameat);
    char before[PATH_MAX], after[PATH_MAX];
    if (!ready() || !resolved(from_dir, from, before) || !resolved(to_dir, to, after) || !watched(after))
        return real_renameat(from_dir, from, to_dir, to);
    pthread_mutex_lock(&lock);
    uint64_t slot = keep(after);
    int result = real_renameat(from_dir, from, to_dir, to);
    if (result == 0) {
        put_all(names_fd, "R", 1);
        put_text(names_fd, after);
        put_text(names_fd, before);
        put_number(names_fd, slot);
        moved(before, after);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int mkdirat(int dir, const char *path, mode_t mode)
{
    REAL(mkdirat);
    char whole[PATH_MAX];
    int inside = ready() && resolved(dir, path, whole) && watched(whole);
    int result = real_mkdirat(dir, path, mode);
    if (result == 0 && inside) {
        pthread_mutex_lock(&lock);
        put_all(names_fd, "C", 1);
        put_text(names_fd, whole);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    REAL(mmap64);
    if (GUARDED(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE)) {
        errno = ENOTSUP;
        fail("a watched file is mapped for writing");
    }
    return real_mmap64(at, size, protection, flags, fd, offset);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return mmap64(at, size, protection, flags, fd, offset);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags)
{
    REAL(copy_file_range);
    if (GUARDED(out)) {
        errno = ENOTSUP;
        fail("a watched file is copied into");
    }
    return real_copy_file_range(in, in_at, out, out_at, size, flags);
}
