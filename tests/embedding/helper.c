/* System calls that Rust cannot make without `unsafe`. The tests load it with LD_PRELOAD into a
 * process of their own and call getppid(), which does what RTCBOT_WEBSOCKET_DOES says. */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void nothing(int number) { (void)number; }

static volatile int interrupting;

/* Interrupts every other thread of the process, again and again. */
static void *interrupt(void *argument) {
    pid_t process = getpid(), own = (pid_t)syscall(SYS_gettid);
    while (interrupting) {
        DIR *tasks = opendir("/proc/self/task");
        struct dirent *entry;
        while (tasks && (entry = readdir(tasks))) {
            pid_t thread = (pid_t)atoi(entry->d_name);
            if (thread > 0 && thread != own)
                syscall(SYS_tgkill, process, thread, SIGUSR1);
        }
        if (tasks)
            closedir(tasks);
        usleep(500);
    }
    return argument;
}

pid_t getppid(void) {
    const char *does = getenv("RTCBOT_WEBSOCKET_DOES");
    if (does && !strcmp(does, "fork"))
        return fork();
    if (does && !strcmp(does, "let SIGPIPE kill")) {
        signal(SIGPIPE, SIG_DFL);
        return 0;
    }
    if (does && !strcmp(does, "interrupt")) {
        struct sigaction action;
        pthread_t thread;
        interrupting = !interrupting;
        if (!interrupting)
            return 0;
        memset(&action, 0, sizeof action);
        action.sa_handler = nothing; /* without SA_RESTART */
        sigaction(SIGUSR1, &action, NULL);
        pthread_create(&thread, NULL, interrupt, NULL);
        return 0;
    }
    return (pid_t)syscall(SYS_getppid);
}
