/* Work in pieces on the threads that torch computes with. */
#ifndef SECBATCH_THREADS_H
#define SECBATCH_THREADS_H

/* Calls work(context, piece, room) for each piece from 0 to pieces - 1, on at most `threads` threads. `room`: memory of
   `bytes` for that thread alone, on a 64 byte boundary. Returns 0, or -1 where there was no memory for it. */
int in_pieces(void (*work)(const void *context, long piece, char *room), const void *context, long pieces, int threads,
              long bytes);

/* Whether torch's threads were found: without them everything runs on the calling thread. */
int has_threads(void);

#endif
