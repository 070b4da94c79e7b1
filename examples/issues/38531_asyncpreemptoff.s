// golang/go issue 38531: with GODEBUG=asyncpreemptoff=1 the runtime sends no SIGURG, but one from
// outside still preempted, as the handler did not ask. Since 1.15 it does. sysmon's request stays
// in gp.preempt meanwhile: a stack check would act on it.
//
// The goroutine loops for longer than a time slice, then sends itself the signal as another process
// would.
//
// pushcall: quantum=100us godebug=asyncpreemptoff=1
// pushcall broken: go=1.14 expect=preemptions:1
// pushcall mended: go=1.15 expect=preemptions:0 expect=signals:1

#include "textflag.h"

#define SYS_getpid 39
#define SYS_gettid 186
#define SYS_tgkill 234
#define SIGURG 23

TEXT main·main(SB), NOSPLIT, $0-0
	MOVL	$150000, CX
loop:
	DECL	CX
	JNE	loop
	MOVL	$SYS_gettid, AX
	SYSCALL
	MOVL	AX, SI
	MOVL	$SYS_getpid, AX
	SYSCALL
	MOVL	AX, DI
	MOVL	$SIGURG, DX
	MOVL	$SYS_tgkill, AX
	SYSCALL
	NOP
	RET
