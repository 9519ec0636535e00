/* A ring of MPI processes: each adds its number to what comes round. Declares what it needs of Open MPI 4 itself, since
 * its headers are in a package that pulls in compilers for Fortran. */
#include <stdio.h>
#include <unistd.h>

typedef struct ompi_communicator_t *Comm;
typedef struct ompi_datatype_t *Type;
extern struct ompi_predefined_communicator_t ompi_mpi_comm_world;
extern struct ompi_predefined_datatype_t ompi_mpi_int;

int MPI_Init(int *, char ***);
int MPI_Finalize(void);
int MPI_Comm_rank(Comm, int *);
int MPI_Comm_size(Comm, int *);
int MPI_Send(const void *, int, Type, int, int, Comm);
int MPI_Recv(void *, int, Type, int, int, Comm, void *);

int main(int argc, char **argv)
{
    Comm world = (Comm)(void *)&ompi_mpi_comm_world;
    Type integer = (Type)(void *)&ompi_mpi_int;
    int rank, size, sum = 0;
    char host[64] = "";

    if (MPI_Init(&argc, &argv) != 0)
        return 1;
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
    gethostname(host, sizeof host - 1);
    if (rank != 0)
        MPI_Recv(&sum, 1, integer, rank - 1, 0, world, (void *)0);
    sum += rank;
    MPI_Send(&sum, 1, integer, (rank + 1) % size, 0, world);
    if (rank == 0) {
        MPI_Recv(&sum, 1, integer, size - 1, 0, world, (void *)0);
        printf("ring of %d: %d\n", size, sum);
    }
    printf("rank %d on %s\n", rank, host);
    fflush(stdout);
    MPI_Finalize();
    return 0;
}
