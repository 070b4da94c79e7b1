// golang/go issue 37942: a program that asks os/signal for SIGURG, or for all signals, is told of
// the runtime's preemptions too: the handler passes each SIGURG on. Go cannot tell them apart and
// documents them; before 1.14 there were none. Whoever needs SIGURG has to bear with signals
// that mean nothing, or to switch asynchronous preemption off.
//
// The goroutine asks for SIGURG as Notify does, and takes the bit as signal_recv does: AX counts.
//
// pushcall: entry=main·main quantum=100us
// pushcall told: go=1.14 expect=RAX:0 expect=fails
// pushcall told-1.27: go=1.27 expect=RAX:0 expect=fails
// pushcall not-asked: go=1.14 define=NOT_ASKED expect=RAX:0 expect=preemptions:>0
// pushcall off: go=1.22 godebug=asyncpreemptoff=1 expect=RAX:0 expect=preemptions:0
// pushcall cooperative: go=1.13 expect=RAX:0 expect=signals:0

#include "textflag.h"

#define SIGURG 23
#define MASK 8	// sig.mask
#define WANTED 20	// sig.wanted

TEXT main·main(SB), NOSPLIT, $0-0
#ifndef NOT_ASKED
	LOCK
	ORL	$(1<<SIGURG), runtime·sig+WANTED(SB)
#endif
	XORL	AX, AX
	MOVL	$100000, CX
loop:
	XORL	BX, BX
	XCHGL	BX, runtime·sig+MASK(SB)
	SHRL	$SIGURG, BX
	ADDL	BX, AX
	DECL	CX
	JNE	loop
	RET
