/* libfcgi SOCKET WORKERS: the application in C, on libfcgi. */

#include <fcgiapp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char body[1048576], chunk[65536];

int main(int argc, char **argv)
{
    FCGX_Request request;
    int listener, worker, workers;

    if (argc != 3)
        return 2;
    workers = atoi(argv[2]);
    memset(body, 'x', sizeof body);
    FCGX_Init();
    listener = FCGX_OpenSocket(argv[1], 1024);
    if (listener < 0)
        return 1;
    for (worker = 0; worker < workers; worker++)
        if (fork() == 0)
            goto serve;
    while (wait(NULL) > 0)
        ;
    return 0;

serve:
    FCGX_InitRequest(&request, listener, 0);
    while (FCGX_Accept_r(&request) == 0) {
        const char *length = FCGX_GetParam("CONTENT_LENGTH", request.envp);
        const char *query = FCGX_GetParam("QUERY_STRING", request.envp);
        int got, size = query ? atoi(query) : 12;
        long received = 0;

        if (length && *length)
            while ((got = FCGX_GetStr(chunk, sizeof chunk, request.in)) > 0)
                received += got;
        FCGX_FPrintF(request.out, "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", size);
        if (size == 12)
            FCGX_FPrintF(request.out, "%012ld", received);
        else
            FCGX_PutStr(body, size, request.out);
        FCGX_Finish_r(&request);
    }
    return 0;
}
