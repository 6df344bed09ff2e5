/* Delays system calls at random, so that threads meet in orders that are rare otherwise.
 * tests/delayed.sh loads it with LD_PRELOAD and explains how to run it.
 *
 * One call in DELAY_EVERY sleeps for up to DELAY_MS milliseconds, before or after the call.
 * DELAY_SEED selects which calls and how long, but threads share these numbers in any order. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static unsigned every, longest_us, state;

__attribute__((constructor)) static void read_environment(void)
{
    const char *text;
    longest_us = (text = getenv("DELAY_MS")) ? (unsigned)atoi(text) * 1000 : 0;
    state = (text = getenv("DELAY_SEED")) ? (unsigned)atoi(text) * 0x85ebca6b : 0;
    /* The last: nothing is delayed without it. */
    every = (text = getenv("DELAY_EVERY")) ? (unsigned)atoi(text) : 0;
}

static unsigned draw(void)
{
    unsigned n = __atomic_fetch_add(&state, 0x9e3779b9, __ATOMIC_RELAXED);
    n = (n ^ n >> 16) * 0x7feb352d;
    n = (n ^ n >> 15) * 0x846ca68b;
    return n ^ n >> 16;
}

enum moment { NEVER, BEFORE, AFTER };

static enum moment moment(void)
{
    if (!every || draw() % every)
        return NEVER;
    return draw() % 2 ? BEFORE : AFTER;
}

/* For calls that files have as well: only sockets are delayed. */
static enum moment moment_of(int descriptor)
{
    struct stat status;
    int error = errno;
    enum moment chosen = moment();
    if (chosen != NEVER && (fstat(descriptor, &status) || !S_ISSOCK(status.st_mode)))
        chosen = NEVER;
    errno = error;
    return chosen;
}

/* Keeps errno, which the caller of the delayed function reads. */
static void sleep_if(int now)
{
    int error = errno;
    if (now) {
        unsigned us = longest_us ? draw() % (longest_us + 1) : 0;
        struct timespec time = { us / 1000000, us % 1000000 * 1000L };
        nanosleep(&time, NULL);
    }
    errno = error;
}

/* Defines `name` as the next library's function of that name, with a delay before or after it. */
#define DELAYED(when, result_type, name, parameters, arguments) \
    result_type name parameters \
    { \
        static result_type (*next) parameters; \
        enum moment chosen = when; \
        result_type result; \
        if (!next) \
            next = (result_type(*) parameters)dlsym(RTLD_NEXT, #name); \
        sleep_if(chosen == BEFORE); \
        result = next arguments; \
        sleep_if(chosen == AFTER); \
        return result; \
    }

DELAYED(moment_of(fd), ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
DELAYED(moment_of(fd), ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size))
DELAYED(moment_of(fd), ssize_t, readv, (int fd, const struct iovec *to, int count), (fd, to, count))
DELAYED(moment_of(fd), ssize_t, writev, (int fd, const struct iovec *from, int count),
        (fd, from, count))
DELAYED(moment(), ssize_t, recv, (int fd, void *to, size_t size, int flags), (fd, to, size, flags))
DELAYED(moment(), ssize_t, send, (int fd, const void *from, size_t size, int flags),
        (fd, from, size, flags))
DELAYED(moment(), int, connect, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size))
DELAYED(moment(), int, accept4, (int fd, struct sockaddr *from, socklen_t *size, int flags),
        (fd, from, size, flags))
DELAYED(moment(), int, shutdown, (int fd, int how), (fd, how))
DELAYED(moment_of(fd), int, close, (int fd), (fd))
DELAYED(moment(), int, poll, (struct pollfd *fds, nfds_t count, int timeout), (fds, count, timeout))
DELAYED(moment(), int, ppoll,
        (struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask),
        (fds, count, timeout, mask))

/* Rust's locks, channels and parked threads wait and wake with futex(2), through syscall(). */
long syscall(long number, ...)
{
    static long (*next)(long, ...);
    enum moment chosen = number == SYS_futex ? moment() : NEVER;
    long result, a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    sleep_if(chosen == BEFORE);
    result = next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    sleep_if(chosen == AFTER);
    return result;
}

/* A new thread starts late, or continues before the thread that has started it. */
struct start {
    void *(*function)(void *);
    void *argument;
};

static void *start_late(void *argument)
{
    struct start start = *(struct start *)argument;
    free(argument);
    sleep_if(1);
    return start.function(start.argument);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *),
                   void *argument)
{
    static int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    enum moment chosen = moment();
    struct start *start = chosen == BEFORE ? malloc(sizeof *start) : NULL;
    int result;
    if (!next)
        next = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(
            RTLD_NEXT, "pthread_create");
    if (start) {
        *start = (struct start){ function, argument };
        result = next(thread, attributes, start_late, start);
        if (result)
            free(start);
        return result;
    }
    result = next(thread, attributes, function, argument);
    sleep_if(chosen == AFTER);
    return result;
}
