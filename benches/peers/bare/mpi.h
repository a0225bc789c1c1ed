/* As much of MPI as mpi_bench.c needs, between two processes of one machine: see bare.c. */
#ifndef BARE_MPI_H
#define BARE_MPI_H

#include <stddef.h>

typedef enum { MPI_FLOAT, MPI_DOUBLE, MPI_LONG_LONG } MPI_Datatype;
typedef enum { MPI_SUM, MPI_MAX } MPI_Op;
typedef enum { MPI_COMM_WORLD } MPI_Comm;

extern char bare_in_place;
#define MPI_IN_PLACE ((void *)&bare_in_place)

int MPI_Init(int *argc, char ***argv);
int MPI_Finalize(void);
int MPI_Abort(MPI_Comm comm, int code);
int MPI_Comm_rank(MPI_Comm comm, int *rank);
int MPI_Comm_size(MPI_Comm comm, int *size);
double MPI_Wtime(void);
int MPI_Barrier(MPI_Comm comm);
int MPI_Allreduce(const void *send, void *recv, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm);
int MPI_Allgather(const void *send, int count, MPI_Datatype type, void *recv, int recv_count, MPI_Datatype recv_type,
                  MPI_Comm comm);
int MPI_Reduce_scatter_block(const void *send, void *recv, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm);
int MPI_Alltoall(const void *send, int count, MPI_Datatype type, void *recv, int recv_count, MPI_Datatype recv_type,
                 MPI_Comm comm);

#endif
