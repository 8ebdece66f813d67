/* A FastCGI program on libfcgi, which ends gently on USR1 and knows no other signal.

   /      its pid
   /held  says "in hand PID" on descriptor 1, then waits until somebody opens the other end of the fifo in GATE */

#include <errno.h>
#include <fcgiapp.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void hold(void)
{
    char line[64];
    int gate, size = snprintf(line, sizeof line, "in hand %d\n", (int)getpid());

    if (write(1, line, size) != size)
        exit(4);
    do /* the handler of libfcgi interrupts system calls */
        gate = open(getenv("GATE"), O_RDONLY);
    while (gate < 0 && errno == EINTR);
    if (gate < 0)
        exit(5);
    close(gate);
}

int main(void)
{
    FCGX_Request request;

    FCGX_Init();
    FCGX_InitRequest(&request, 0, 0);
    while (FCGX_Accept_r(&request) == 0) {
        const char *path = FCGX_GetParam("PATH_INFO", request.envp);

        if (path && strcmp(path, "/held") == 0)
            hold();
        FCGX_FPrintF(request.out, "Content-Type: text/plain\r\n\r\n%d", (int)getpid());
        FCGX_Finish_r(&request);
    }
    return 0;
}
