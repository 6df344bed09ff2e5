/* Makes pthread_create fail, as it does where a limit on threads is reached. tests/no_threads.rs
 * loads it with LD_PRELOAD. The file that REFUSE_THREADS names says which threads are refused. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct control {
    int pass;     /* how many start before any is refused */
    int refuse;   /* how many are refused after those; -1 means all */
    int permille; /* the chance of each of those to be refused */
    int seed;
    int refused;  /* how many have been refused */
};

static struct control *control;

__attribute__((constructor)) static void open_control(void)
{
    const char *path = getenv("REFUSE_THREADS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *page = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (page != MAP_FAILED)
        control = page;
    close(file);
}

/* Takes one of `*count`, unless there is none left. */
static int take(int *count)
{
    int left = __atomic_load_n(count, __ATOMIC_SEQ_CST);
    while (left > 0)
        if (__atomic_compare_exchange_n(count, &left, left - 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return 1;
    return left < 0;
}

static int is_refused(void)
{
    if (!control || take(&control->pass))
        return 0;
    unsigned n = __atomic_fetch_add(&control->seed, 0x9e3779b9, __ATOMIC_SEQ_CST);
    n = (n ^ n >> 16) * 0x7feb352d;
    n = (n ^ n >> 15) * 0x846ca68b;
    if ((n ^ n >> 16) % 1000 >= (unsigned)control->permille || !take(&control->refuse))
        return 0;
    __atomic_fetch_add(&control->refused, 1, __ATOMIC_SEQ_CST);
    return 1;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
    static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (is_refused())
        return EAGAIN;
    if (!create)
        create = dlsym(RTLD_NEXT, "pthread_create");
    return create(thread, attr, start, arg);
}
