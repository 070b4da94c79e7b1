// The pacer wants a second dedicated mark worker: the first asks a running P to stop (enlistWorker,
// preemptone). The goroutine there gives way, and schedule finds the worker before anything else
// (findRunnableGCWorker). Both then share the goroutines' stacks, and the second one parks.
//
// pushcall: entry=main·main goroutines=4 procs=2 go=1.22 schedule=30000:enlist expect=requests:1

#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $0-0
	MOVL	$60000, CX
loop:
	DECL	CX
	JNE	loop
	RET
