// Calls in calls, each with a larger frame and so another kind of stack check: small frames
// compare SP itself, large ones SP less the frame, huge ones guard against wrapping around.
//
// pushcall: entry=main·main expect=RAX:36

#include "textflag.h"
#include "registers.h"

TEXT main·main(SB), 0, $16-0
	MOVQ	$1, 0(SP)
	CALL	main·small(SB)
	MOVQ	8(SP), AX
	CLEAR_ALL_BUT_AX
	RET

TEXT main·small(SB), 0, $64-16
	MOVQ	n+0(FP), AX
	ADDQ	$5, AX
	MOVQ	AX, 0(SP)
	CALL	main·large(SB)
	MOVQ	8(SP), AX
	MOVQ	AX, ret+8(FP)
	RET

TEXT main·large(SB), 0, $1024-16
	MOVQ	n+0(FP), AX
	ADDQ	$10, AX
	MOVQ	AX, 0(SP)
	CALL	main·huge(SB)
	MOVQ	8(SP), AX
	MOVQ	AX, ret+8(FP)
	RET

TEXT main·huge(SB), 0, $8192-16
	MOVQ	n+0(FP), AX
	ADDQ	$20, AX
	MOVQ	AX, ret+8(FP)
	RET
